package main

import "example.com/eventstore"

// HotSpots say how often each path was changed, by aggregate ID.
type HotSpots map[string]HotSpot

// HotSpot is what happened at one path. It does not follow renames: the file has another history
// at its other path.
type HotSpot struct {
	Changes int   `json:"n"` // without its leaving for another path
	Lines   int64 `json:"l"` // added and removed
}

// hotSpots is a projection with a state: on a server it goes on where the run before has stopped.
// The state is stored with each batch, so the batches are large.
var hotSpots = eventstore.Projection[HotSpots]{
	Name:      "gitlog.hot-spots",
	From:      eventstore.FromStream(filesStream),
	Init:      func() HotSpots { return HotSpots{} },
	BatchSize: 20000,
	When: []eventstore.Handler[HotSpots]{
		heat[FileAdded](),
		heat[FileChanged](),
		heat[FileRenamed](),
		eventstore.OnEvent(func(h *HotSpots, e FileDeleted, ev eventstore.Event) {
			if e.MovedTo == "" { // or else it is counted at the new path
				h.add(ev.AggregateID, e.Change)
			}
		}),
	},
}

func heat[E changing]() eventstore.Handler[HotSpots] {
	return eventstore.OnEvent(func(h *HotSpots, e E, ev eventstore.Event) { h.add(ev.AggregateID, e.change()) })
}

func (h *HotSpots) add(id string, ch Change) {
	spot := (*h)[id]
	spot.Changes++
	spot.Lines += ch.Added + ch.Removed
	(*h)[id] = spot
}
