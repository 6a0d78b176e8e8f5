// Lists as parameters.

package eventstore

import (
	"encoding/hex"
	"strings"
)

// placeholders returns n parameters for a list.
func placeholders(n int) string { return strings.TrimSuffix(strings.Repeat("?, ", n), ", ") }

// arrayLiteral returns an array of n elements as Postgres writes it. As text it passes through
// every driver and protocol mode alike.
func arrayLiteral(n int, element func(i int) string) string {
	var b strings.Builder
	for i := range n {
		s := element(i)
		if i == 0 { // the others may well be like it, if it is not large
			b.Grow(min(n*(len(s)+len(s)/4+3)+2, 64<<10))
		}
		b.WriteByte("{,"[min(i, 1)])
		b.WriteByte('"')
		for from := 0; from < len(s); {
			to := from
			for to < len(s) && s[to] != '"' && s[to] != '\\' {
				to++
			}
			b.WriteString(s[from:to])
			if from = to; from < len(s) {
				b.WriteByte('\\')
				b.WriteByte(s[from])
				from++
			}
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// arrayLists returns each list as an array.
func arrayLists(columns ...[]string) []any {
	args := make([]any, len(columns))
	for i, column := range columns {
		args[i] = arrayLiteral(len(column), func(i int) string { return column[i] })
	}
	return args
}

// hexLists returns lists together, as a JSON array with an array for each of their rows. Its texts are in
// hexadecimal, so that they pass every character set and collation as they are.
func hexLists(columns ...[]string) []any {
	b := []byte{'['}
	for row := range columns[0] {
		if row > 0 {
			b = append(b, ',')
		}
		for i, column := range columns {
			b = append(b, "[,"[min(i, 1)], '"')
			b = hex.AppendEncode(b, []byte(column[row]))
			b = append(b, '"')
		}
		b = append(b, ']')
	}
	return []any{string(append(b, ']'))}
}

// mysqlUnsafe lets MariaDB carry out a statement that goes by a list where sql_safe_updates is on: a list
// is no key.
const mysqlUnsafe = `/*M! SET STATEMENT sql_safe_updates = 0 FOR */ `
