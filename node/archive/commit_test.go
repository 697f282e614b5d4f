package archive

import (
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// ingestsTogether has instances received so that they are all made visible together, and returns what each sender is told.
func (h *house) ingestsTogether(t *testing.T, studies ...string) []error {
	t.Helper()
	told := make([]chan error, len(studies))
	h.commits.turn.Lock()
	for i, study := range studies {
		told[i] = make(chan error, 1)
		go func() { told[i] <- h.take(image(study, 20+i, byte(20+i))) }()
	}
	waitFor(t, "all wait to be made visible", func() bool {
		h.commits.mu.Lock()
		defer h.commits.mu.Unlock()
		return len(h.commits.waiting) == len(studies)
	})
	h.commits.turn.Unlock()
	out := make([]error, len(studies))
	for i := range told {
		out[i] = <-told[i]
	}
	return out
}

// A record that cannot be read refuses its own study and no other that comes at the same time.
func TestADamagedRecordRefusesItsOwnStudyOnly(t *testing.T) {
	h := furnished(t)
	const bad = "1.2.6666"
	if err := h.take(image(bad, 1, 1)); err != nil {
		t.Fatal(err)
	}
	if err := h.update(func(txn *badger.Txn) error { return txn.Set(h.id(bad).key(tableSource), []byte{0xff, 0x00}) }); err != nil {
		t.Fatal(err)
	}
	studies := []string{otherStudy, doomedStudy, bad, otherStudy, "1.2.7777", bad, doomedStudy}
	for i, err := range h.ingestsTogether(t, studies...) {
		if refused := err != nil; refused != (studies[i] == bad) {
			t.Errorf("study %s: %v", studies[i], err)
		}
	}
	for study, n := range map[string]int{otherStudy: 5, doomedStudy: 5, "1.2.7777": 1, bad: 1} {
		if list, err := h.instancesOf(h.id(study)); err != nil || len(list) != n {
			t.Errorf("study %s has %d instances, not %d: %v", study, len(list), n, err)
		}
	}
}
