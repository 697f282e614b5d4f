package dicom

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
)

// emptyItems is an instance with a sequence of n items that hold nothing.
func emptyItems(n int) []byte {
	d := newDraft(ExplicitVRLittleEndian)
	d.ids()
	item := draft{}
	item.head(itemTag, "", 0)
	d.head(0x0040A730, SQ, uint32(8*n))
	d.b = append(d.b, bytes.Repeat(item.b, n)...)
	return d.b
}

func TestABudgetBoundsAllScansTogether(t *testing.T) {
	const bytesInAll = 8 << 20
	budget := NewBudget(bytesInAll)
	lim := Limits{Budget: budget}
	items := emptyItems(60000) // takes more than a third of it
	ordinary := newDraft(ExplicitVRLittleEndian)
	ordinary.ids()
	ordinary.image("1", 4, 4, 16)
	ordinary.pixels(OW, string(make([]byte, 32)))

	var busy, fine, cut atomic.Int64
	var most atomic.Int64
	look := func() {
		for n := budget.Taken(); ; {
			have := most.Load()
			if n <= have || most.CompareAndSwap(have, n) {
				return
			}
		}
	}
	var all sync.WaitGroup
	var read sync.WaitGroup // none is released before all are read
	read.Add(32)
	for i := range 32 {
		all.Go(func() {
			b := items
			if i%4 == 3 {
				b = items[:len(items)-5] // cut short
			}
			inst, err := Scan(stream{bytes.NewReader(b)}, lim, Handler{Piece: func(Piece) error { look(); return nil }})
			look()
			read.Done()
			read.Wait()
			switch {
			case errors.Is(err, ErrBusy):
				busy.Add(1)
			case err == nil:
				fine.Add(1)
			case errors.Is(err, ErrTruncated) || kind(err) == "malformed":
				cut.Add(1) // it had taken as much by then
			default:
				t.Error(err)
			}
			inst.Release()
			inst.Release()
		})
		all.Go(func() {
			inst, err := Scan(stream{bytes.NewReader(ordinary.b)}, lim, Handler{})
			if err != nil {
				t.Errorf("an ordinary instance beside them: %v", err)
			}
			inst.Release()
		})
	}
	all.Wait()
	if most.Load() > bytesInAll {
		t.Errorf("%d bytes were taken at once", most.Load())
	}
	if fine.Load()+cut.Load() == 0 || fine.Load() > 2 || busy.Load() == 0 {
		t.Errorf("%d were read, %d to where they were cut, and %d found no room", fine.Load(), cut.Load(), busy.Load())
	}
	if n := budget.Taken(); n != 0 {
		t.Errorf("%d bytes were not given back", n)
	}
	inst, err := Scan(bytes.NewReader(items), lim, Handler{})
	if err != nil {
		t.Fatalf("sent again: %v", err)
	}
	inst.Release()
}

// Whatever memory goes to is charged, and given back however a scan ends.
func TestWhatIsCharged(t *testing.T) {
	open := func(ts UID) *draft {
		d := newDraft(ts)
		d.ids()
		return d
	}
	long := open(ExplicitVRLittleEndian)
	for i := range 4 {
		long.put(Tag(0x00091010+i), UN, string(make([]byte, 600<<10)))
	}
	// The UIDs come late: all before them is held.
	late := newDraft(ExplicitVRLittleEndian)
	late.put(0x00080005, CS, "ISO_IR 100")
	late.put(0x00091010, OB, string(make([]byte, 2<<20)))
	late.ids()
	unknown := open(ExplicitVRLittleEndian) // a sequence as UN, read again
	item := draft{}
	item.head(itemTag, "", 0)
	unknown.put(0x0040A730, UN, string(bytes.Repeat(item.b, 100000)))
	fragments := open(RLELossless)
	fragments.image("1", 4, 4, 16)
	fragments.fragments(nil, make([]string, 50000)...)
	body := open(ExplicitVRLittleEndian)
	elements := len(body.b)
	for range 30000 {
		body.put(0x00091010, LO, "")
	}
	frames := open(ExplicitVRLittleEndian)
	frames.image("40000", 1, 1, 8)
	frames.pixels(OB, string(make([]byte, 40000)))
	for name, b := range map[string][]byte{
		"long values":           long.b,
		"the head":              late.b,
		"unknown VR":            unknown.b,
		"fragments":             fragments.b,
		"attributes":            body.b,
		"frames":                frames.b,
		"items":                 emptyItems(60000),
		"attributes, cut short": body.b[:elements+(len(body.b)-elements)*9/10-3],
	} {
		t.Run(name, func(t *testing.T) {
			small := NewBudget(256 << 10)
			if _, err := Scan(stream{bytes.NewReader(b)}, Limits{Value: 2 << 20, Budget: small}, Handler{Piece: func(Piece) error { return nil }}); !errors.Is(err, ErrBusy) {
				t.Errorf("with little memory: %v", err)
			}
			large := NewBudget(64 << 20)
			for _, r := range []io.Reader{stream{bytes.NewReader(b)}, bytes.NewReader(b)} {
				inst, err := Scan(r, Limits{Value: 2 << 20, Budget: large}, Handler{})
				if errors.Is(err, ErrBusy) {
					t.Error(err)
				}
				inst.Release()
			}
			failing := errors.New("the disk is full")
			inst, err := Scan(stream{bytes.NewReader(b)}, Limits{Value: 2 << 20, Budget: large}, Handler{Begin: func(UIDs) error { return failing }})
			if !errors.Is(err, failing) || inst != nil {
				t.Errorf("%v", err)
			}
			func() {
				defer func() { _ = recover() }()
				_, _ = Scan(stream{bytes.NewReader(b)}, Limits{Value: 2 << 20, Budget: large}, Handler{Begin: func(UIDs) error { panic("a fault") }})
			}()
			if small.Taken() != 0 || large.Taken() != 0 {
				t.Errorf("%d and %d bytes were not given back", small.Taken(), large.Taken())
			}
		})
	}
}

// Nothing is owed for what is read without an instance.
func TestDecodingTakesNothing(t *testing.T) {
	b := NewBudget(1)
	var d Dataset
	for range 10000 {
		d.Elements = append(d.Elements, Element{Tag: 0x00091010, VR: LO, Value: []byte("x ")})
	}
	if _, err := Decode(d.Encode(), Limits{Budget: b}); err != nil || b.Taken() != 0 {
		t.Error(err, b.Taken())
	}
	if _, err := io.Copy(io.Discard, Inflate(bytes.NewReader(emptyItems(60000)), Limits{Budget: b})); err != nil || b.Taken() != 0 {
		t.Error(err, b.Taken())
	}
}
