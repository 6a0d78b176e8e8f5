package main

// The events of an account, as they are stored: their names and their fields must stay.

type Opened struct {
	Owner string `json:"owner"`
	Email string `json:"email"`
}

type Deposited struct {
	Cents int64 `json:"cents"`
}

type Withdrawn struct {
	Cents int64 `json:"cents"`
}

type TransferSent struct {
	To    string `json:"to"`
	Cents int64  `json:"cents"`
}

type TransferReceived struct {
	From  string `json:"from"`
	Cents int64  `json:"cents"`
}

func (Opened) EventName() string           { return "account.opened" }
func (Deposited) EventName() string        { return "account.deposited" }
func (Withdrawn) EventName() string        { return "account.withdrawn" }
func (TransferSent) EventName() string     { return "account.transfer_sent" }
func (TransferReceived) EventName() string { return "account.transfer_received" }
