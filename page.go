// Page sizes: how many rows a read asks for. A page of large rows makes the next one smaller,
// which bounds its bytes.

package eventstore

// Pages begin small, for the many reads that want little, and grow to maxPage rows while these
// stay below pageBytes.
const (
	minPage   = 16
	firstPage = 256
	maxPage   = 1000
	pageBytes = 8 << 20
)

// pageSize returns how many rows to ask for after a page, at most so many.
func pageSize(last []record, most int) int {
	bytes := 0
	for i := range last {
		bytes += len(last[i].data) + len(last[i].metadata)
	}
	perRow := bytes/len(last) + 1
	return min(most, max(minPage, pageBytes/perRow))
}
