// Page sizes: how many rows, and how many bytes of them, a read takes from its backend at a time.

package eventstore

// Pages begin small, for the many reads that want little, and grow to maxPage rows while these
// stay below pageBytes. A page ends with the row with which its bytes reach pageBytes, so that it
// holds less than pageBytes and one event. A read that fetches ahead holds two pages.
const (
	minPage   = 16
	firstPage = 256
	maxPage   = 1000
	pageBytes = 2 << 20
)

// pageSize returns how many rows to ask for after a page, at most so many.
func pageSize(last []record, most int) int {
	bytes := 0
	for i := range last {
		bytes += last[i].size()
	}
	perRow := bytes/len(last) + 1
	return min(most, max(minPage, pageBytes/perRow))
}
