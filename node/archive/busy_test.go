package archive

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomtest"
)

// What finds no memory is to be sent again, and owes none; nor does what was
// stored, was a duplicate, or was refused.
func TestMemoryOfWhatIsReceivedIsGivenBack(t *testing.T) {
	h := newHouse(t, t.TempDir(), "RX1", &steppedClock{t: time.Unix(1_700_000_000, 0)}, "RX1")
	budget := dicom.NewBudget(8 << 20)
	h.Limits.Budget = budget
	small := dicomtest.Instance{Study: "2.25.1", Series: "2.25.2", SOP: "2.25.3"}.Bytes()
	large := func(items int) []byte {
		head := []byte{0xE1, 0x7F, 0x01, 0x10, 'S', 'Q', 0, 0, 0, 0, 0, 0}
		n := 8 * items
		head[8], head[9], head[10], head[11] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
		b := dicomtest.Instance{Study: "2.25.1", Series: "2.25.2", SOP: "2.25.4"}.Bytes()
		return append(append(b, head...), bytes.Repeat([]byte{0xFE, 0xFF, 0x00, 0xE0, 0, 0, 0, 0}, items)...)
	}
	finish := h.Receive(t.Context(), bytes.NewReader(large(60000)), IngestOptions{})
	if budget.Taken() == 0 {
		t.Fatal("what is not stored yet owes nothing")
	}
	_, err := h.Receive(t.Context(), bytes.NewReader(large(200000)), IngestOptions{})()
	var wait *Unavailable
	if !errors.As(err, &wait) || wait.RetryAfter <= 0 {
		t.Errorf("without memory: %v", err)
	}
	if _, err := h.Ingest(t.Context(), bytes.NewReader(small), IngestOptions{}); err != nil {
		t.Errorf("an ordinary instance meanwhile: %v", err)
	}
	if _, err := finish(); err != nil {
		t.Error(err)
	}
	if n := budget.Taken(); n != 0 {
		t.Errorf("%d bytes were not given back of what was stored", n)
	}
	var other *Conflict
	if _, err := h.Ingest(t.Context(), bytes.NewReader(large(60001)), IngestOptions{}); !errors.As(err, &other) {
		t.Errorf("other bytes: %v", err)
	}
	if got, err := h.Ingest(t.Context(), bytes.NewReader(large(60000)), IngestOptions{}); err != nil || !got.Duplicate {
		t.Errorf("again: %v", err)
	}
	if n := budget.Taken(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
}
