package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// Receipt is what was acknowledged: it is on disk.
type Receipt struct {
	UIDs      dicom.UIDs
	Size      int64
	SHA256    [sha256.Size]byte
	Duplicate bool // these very bytes were here already
	Mixed     bool // instances of the study name several patients
}

// IngestOptions say how an instance came.
type IngestOptions struct {
	Study   dicom.UID // if set, the only study the instance may belong to
	Arrival bool      // it is new: earlier studies of its patient are wanted here. Not so for a backfill
}

// WrongStudy says that an instance was sent to another study's address.
type WrongStudy struct{ Want, Got dicom.UID }

func (w *WrongStudy) Error() string {
	return fmt.Sprintf("the instance belongs to study %s, not to %s to which it was sent", w.Got.Short(), w.Want.Short())
}

// BadUID says that a UID cannot be one.
type BadUID struct {
	Attribute string
}

func (b *BadUID) Error() string {
	return b.Attribute + " is not a UID: 1 to 64 characters, digits and dots only (PS3.5 9.1); mend the sender and send it again"
}

// Ingest stores one instance. When it returns without error the instance is
// durable, byte for byte, and will be told to the region; after an error
// nothing of it is visible.
func (a *Archive) Ingest(ctx context.Context, r io.Reader, o IngestOptions) (Receipt, error) {
	return a.Receive(ctx, r, o)()
}

// Receive reads one instance to its end. What it returns must be called, once
// and from any goroutine: it finishes what Ingest does, and beside an error names
// the instance as far as it became known. So a sender of many
// instances need not wait for the disk between two of them.
func (a *Archive) Receive(ctx context.Context, r io.Reader, o IngestOptions) func() (Receipt, error) {
	in := &ingest{a: a, ctx: ctx, o: o}
	inst, err := dicom.Scan(r, a.Limits, dicom.Handler{Begin: in.begin, Piece: in.piece})
	if err != nil {
		err = in.why(err)
		in.end()
		return func() (Receipt, error) { return Receipt{UIDs: in.uids}, err }
	}
	in.inst = inst
	return func() (Receipt, error) {
		defer in.end()
		r, err := in.finish(inst)
		r.UIDs = in.uids
		return r, in.why(err)
	}
}

// ingest is one instance on its way in.
type ingest struct {
	a    *Archive
	ctx  context.Context
	o    IngestOptions
	id   sourceID
	uids dicom.UIDs
	key  cas.Key
	inst *dicom.Instance // once it is read; in owes its memory to Limits.Budget

	w    *cas.Writer
	left func() // the source's gate
	stop func() // waiting for an erasure
}

func (in *ingest) begin(u dicom.UIDs) error {
	for _, f := range []struct {
		name string
		uid  dicom.UID
	}{{"Study Instance UID", u.Study}, {"Series Instance UID", u.Series}, {"SOP Instance UID", u.Instance}} {
		if !f.uid.Valid() {
			return &BadUID{f.name}
		}
	}
	if in.o.Study != "" && u.Study != in.o.Study {
		return &WrongStudy{Want: in.o.Study, Got: u.Study}
	}
	a := in.a
	in.uids, in.id = u, sourceID{Study: string(u.Study), Origin: a.Self}
	var err error
	if in.left, err = a.writing(in.ctx, in.id); err != nil {
		return err
	}
	in.ctx, in.stop = a.erase.attend(in.ctx, in.id)
	if in.key, err = a.ownKey(in.ctx, in.id); err != nil {
		return err
	}
	// When its UID is taken by an instance that is here and whole it is only
	// hashed: the same bytes are a re-send, others a conflict, and neither is
	// stored. A look at the catalogue waits for commits under way, so it is taken
	// beside the reading.
	look := sync.OnceValues(func() (known, whole bool) { return a.readable(in.ctx, u.Instance) })
	in.w = cas.NewWriter(in.ctx, incoming{in, look}, in.key)
	in.w.Unless(func() bool { _, whole := look(); return whole })
	return nil
}

// incoming is where an instance's blocks go.
type incoming struct {
	in   *ingest
	look func() (known, whole bool)
}

// Put implements cas.Putter.
func (s incoming) Put(ctx context.Context, blocks ...cas.Block) error {
	a, in := s.in.a, s.in
	if known, _ := s.look(); known { // what is there of it may be damaged
		return restoring{a.shelf(in.id, in.key), a, in.id}.Put(ctx, blocks...)
	}
	return a.storing(in.id, in.key).Put(ctx, blocks...)
}

func (in *ingest) piece(p dicom.Piece) error {
	if in.ctx.Err() != nil {
		return context.Cause(in.ctx)
	}
	return in.w.Write(cas.Span{Group: uint8(p.Section), Unit: p.Frame}, p.Data)
}

// why says of an instance that was broken off by an erasure that it was.
func (in *ingest) why(err error) error {
	if err != nil && errors.Is(context.Cause(in.ctx), errErased) {
		return errErased
	}
	if errors.Is(err, dicom.ErrBusy) {
		return &Unavailable{Reason: dicom.ErrBusy.Error(), RetryAfter: busyFor}
	}
	return err
}

// busyFor is when to send again what found no memory.
const busyFor = 5 * time.Second

// end gives up what was not finished.
func (in *ingest) end() {
	in.inst.Release()
	if in.w != nil {
		in.w.Abort()
	}
	if in.stop != nil {
		in.stop()
	}
	if in.left != nil {
		in.left()
	}
}

func (in *ingest) finish(inst *dicom.Instance) (Receipt, error) {
	a := in.a
	written, err := in.w.Seal()
	if err != nil {
		return Receipt{}, err
	}
	if written.Known {
		return in.resent(written.SHA256, written.Size)
	}
	manifest := cas.InstanceManifest{
		UID: string(in.uids.Instance), Class: string(in.uids.Class), TransferSyntax: string(in.uids.TransferSyntax),
		Size: written.Size, SHA256: written.SHA256, HeaderLen: inst.HeaderLen, Blocks: written.Blocks, Pixel: pixelLayout(inst),
	}
	if inst.Deflated {
		manifest.HeaderLen = manifest.Size
	}
	ref, blocks, err := cas.SealInstance(in.key, manifest)
	if err != nil {
		return Receipt{}, err
	}
	if _, err := in.w.Close(blocks...); err != nil {
		return Receipt{}, err
	}
	c := &commit{id: in.id, uids: in.uids, data: inst.Data, arrival: in.o.Arrival, rec: instance{
		Class: manifest.Class, TransferSyntax: manifest.TransferSyntax, Size: written.Size, SHA256: written.SHA256[:],
		Manifest: ref, Attrs: pick(inst.Data, instanceTags).Encode(),
	}}
	if err := a.commits.do(c); err != nil {
		return Receipt{}, err
	}
	a.pub.touch(in.id.Study)
	a.damage.due(in.id.Study)
	a.news.tell(in.id.Study)
	if c.first {
		// Whoever was told that the study is stored may ask for it at once, so
		// the first instance is in the index before it is acknowledged. Should
		// that fail the instance is no less stored: the publisher goes on trying.
		if _, err := a.publish(in.ctx, in.id.Study); err != nil && in.ctx.Err() == nil {
			a.Log.Error("a new study could not be told to the region at once; it is tried again", "study", short(in.id.Study), "error", err)
		}
	}
	if in.o.Arrival {
		a.OnArrival(in.id.Study)
	}
	return Receipt{UIDs: in.uids, Size: written.Size, SHA256: written.SHA256, Duplicate: c.dup, Mixed: c.mixed}, nil
}

// errVanished says that an instance went while a copy of it arrived.
var errVanished = &Unavailable{Reason: "the instance was erased here while this copy of it arrived; send it again if it is wanted", RetryAfter: 5 * time.Second}

// resent judges an instance whose UID was taken when it began to arrive.
func (in *ingest) resent(sum [sha256.Size]byte, size int64) (Receipt, error) {
	a := in.a
	dup, err := a.taken(in.uids, sum)
	if err != nil {
		return Receipt{}, err
	}
	if !dup {
		return Receipt{}, errVanished
	}
	if in.o.Arrival {
		if err := a.arrived(in.id); err != nil {
			return Receipt{}, err
		}
		a.OnArrival(in.id.Study)
	}
	return Receipt{UIDs: in.uids, Size: size, SHA256: sum, Duplicate: true}, nil
}

// ownKey is the key of a study that is received here. A lost one is regained
// from a holder, if one can be reached now; else there is a new one from here
// on, and what the old one sealed is taken back when a holder returns.
func (a *Archive) ownKey(ctx context.Context, id sourceID) (cas.Key, error) {
	key, err := a.Keys.Get(id.keyName())
	if err == nil || !keyDamaged(err) {
		return key, err
	}
	if errors.Is(err, cas.ErrNoKey) {
		if _, serr := a.source(id); errors.Is(serr, errNoRecord) {
			return a.Keys.Create(id.keyName()) // a new study
		}
	}
	if _, kerr := a.keyFor(ctx, id); kerr != nil && ctx.Err() != nil {
		return key, ctx.Err()
	}
	if err := a.Keys.SetAside(id.keyName()); err != nil {
		return key, err
	}
	return a.Keys.Create(id.keyName())
}

// readable says whether an instance was received here before, and whether it
// can still be given: its manifest opens, all its blocks are there, and none is
// known to be damaged.
func (a *Archive) readable(ctx context.Context, uid dicom.UID) (known, ok bool) {
	var first sop
	var rec instance
	err := a.db.View(func(txn *badger.Txn) (err error) {
		if first, err = getRecord[sop](txn, append([]byte{tableSOP}, uid...)); err != nil {
			return err
		}
		rec, err = getRecord[instance](txn, first.source().instanceKey(tableInstance, first.Series, string(uid)))
		return err
	})
	if err != nil || first.Origin != a.Self {
		return false, false
	}
	id := first.source()
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		return true, false
	}
	shelf := a.shelf(id, key)
	m, err := cas.LoadInstance(ctx, shelf, key, rec.Manifest)
	if err != nil {
		return true, false
	}
	for _, b := range m.Blocks {
		if has, err := shelf.Has(ctx, b.CID); err != nil || !has {
			return true, false
		}
		if noted, err := a.isNoted(id, b.CID); err != nil || noted {
			return true, false
		}
	}
	return true, true
}

// taken says whether these bytes are here already; other bytes under the same
// SOP Instance UID are a Conflict.
func (a *Archive) taken(uids dicom.UIDs, sum [sha256.Size]byte) (dup bool, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		dup, err = a.takenIn(txn, uids, sum)
		return err
	})
	return dup, err
}

func (a *Archive) takenIn(txn *badger.Txn, uids dicom.UIDs, sum [sha256.Size]byte) (bool, error) {
	first, err := getRecord[sop](txn, append([]byte{tableSOP}, uids.Instance...))
	switch {
	case errors.Is(err, errNoRecord):
		return false, nil
	case err != nil:
		return false, err
	case first.Origin != a.Self:
		// Only what was received here can keep out what is received here: a
		// copy of another trust's must not.
		return false, nil
	case !bytes.Equal(first.SHA256, sum[:]):
		return false, &Conflict{uids.Instance}
	}
	return true, nil
}

// displace gives a SOP Instance UID that a copy took to the instance that has
// now been received here. A copy with other bytes is kept out from then on.
func (a *Archive) displace(txn *badger.Txn, copied sop, uid dicom.UID, sum []byte) error {
	if bytes.Equal(copied.SHA256, sum) {
		return nil
	}
	id := sourceID{Study: copied.Study, Origin: copied.Origin}
	if err := putRecord(txn, id.instanceKey(tableConflict, copied.Series, string(uid)), a.Now().UnixMilli()); err != nil {
		return err
	}
	if err := txn.Delete(id.instanceKey(tableInstance, copied.Series, string(uid))); err != nil {
		return err
	}
	if err := a.unswept(txn, id); err != nil {
		return err
	}
	s, err := getRecord[source](txn, id.key(tableSource))
	if errors.Is(err, errNoRecord) {
		return nil // it is being brought
	}
	if err != nil {
		return err
	}
	s.Conflicts++
	return putRecord(txn, id.key(tableSource), s)
}

// sameArrival is within what time a study that arrives again is no news.
const sameArrival = time.Minute

// arrived notes that a study is new here although its bytes were here before.
func (a *Archive) arrived(id sourceID) error {
	at, err := a.ArrivedAt(id.Study)
	if now := a.Now(); err != nil || at.Before(now) && now.Sub(at) < sameArrival {
		return err
	}
	return a.update(func(txn *badger.Txn) error {
		return putRecord(txn, id.key(tableArrival), a.Now().UnixMilli())
	})
}

// Arrivals lists the studies that arrived here since a time, and when.
func (a *Archive) Arrivals(since time.Time) (map[string]time.Time, error) {
	out := make(map[string]time.Time)
	err := a.db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableArrival}, func(k []byte, ms int64) error {
			at := time.UnixMilli(ms)
			if id, _, ok := parseSourceID(k); ok && !at.Before(since) {
				out[id.Study] = at
			}
			return nil
		})
	})
	return out, err
}

// ArrivedAt is when a study arrived here; zero if it did not, or only by a
// backfill.
func (a *Archive) ArrivedAt(study string) (at time.Time, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		ms, err := getRecord[int64](txn, sourceID{Study: study, Origin: a.Self}.key(tableArrival))
		if errors.Is(err, errNoRecord) {
			return nil
		}
		at = time.UnixMilli(ms)
		return err
	})
	return at, err
}

// samePerson is about instances of one study: whoever sends them says that
// they are of one patient. They are taken apart only if what both say differs.
func (a *Archive) samePerson(x, y dicom.Dataset) bool {
	idX, idY := x.String(dicom.TagPatientID), y.String(dicom.TagPatientID)
	if idX != "" && idY != "" && (idX != idY || a.issuerOf(x) != a.issuerOf(y)) {
		return false
	}
	said := func(d dicom.Dataset) index.Study {
		return index.Study{Name: d.String(dicom.TagPatientName), BirthDate: d.String(dicom.TagPatientBirthDate), Sex: d.String(dicom.TagPatientSex)}
	}
	return noContradiction(said(x), said(y))
}

func (a *Archive) issuerOf(d dicom.Dataset) string {
	if v := d.String(dicom.TagIssuerOfPatientID); v != "" {
		return v
	}
	return a.Issuer
}

// noContradiction says that names, birth dates and sexes of two may be one
// person's. Whoever are two people to the index are so here too.
func noContradiction(x, y index.Study) bool {
	if x.Name != "" && y.Name != "" && !dicom.NamesAgree(x.Name, y.Name) && dicom.FoldName(x.Name) != dicom.FoldName(y.Name) || index.TwoPeople(dicom.FoldName, x, y) {
		return false
	}
	bornX, bornY := birthday(x.BirthDate), birthday(y.BirthDate)
	return bornX == "" || bornY == "" || bornX == bornY
}

// birthday is a birth date that says something: a day that there was.
func birthday(da string) string {
	da = strings.ReplaceAll(da, ".", "") // ACR-NEMA wrote 1970.01.01
	if _, err := time.Parse("20060102", da); err != nil {
		return ""
	}
	return da
}

// pixelLayout says where the frames lie. A deflated instance has none at an
// offset of its own: its frames are found by inflating it.
func pixelLayout(i *dicom.Instance) *cas.PixelLayout {
	p := i.Pixel
	if p == nil || i.Deflated {
		return nil
	}
	out := &cas.PixelLayout{Off: p.Value.Off, Len: p.Value.Len, Encapsulated: p.Encapsulated}
	if !p.Encapsulated {
		out.Run = frameRun(p)
		return out
	}
	out.Frames = make([][]cas.Range, len(p.Frames))
	for n, f := range p.Frames {
		parts := make([]cas.Range, len(f.Parts))
		for j, r := range f.Parts {
			parts[j] = cas.Range{Off: r.Off, Len: r.Len}
		}
		out.Frames[n] = parts
	}
	return out
}

// frameRun is native pixel data: equal frames back to back.
func frameRun(p *dicom.PixelData) cas.FrameRun {
	if len(p.Frames) == 0 || len(p.Frames[0].Parts) != 1 {
		return cas.FrameRun{Off: p.Value.Off}
	}
	first := p.Frames[0]
	bits := first.Bits
	if bits == 0 {
		bits = first.Parts[0].Len * 8
	}
	return cas.FrameRun{Off: first.Parts[0].Off, Bits: bits, Count: len(p.Frames)}
}

// Rejected says that an error of Ingest is about the instance as it is: it will never
// be taken. Any other may pass.
func Rejected(err error) bool {
	var (
		conflict  *Conflict
		wrong     *WrongStudy
		badUID    *BadUID
		missing   dicom.ErrMissingUID
		limit     dicom.ErrLimit
		malformed dicom.ErrMalformed
	)
	return errors.As(err, &conflict) || errors.As(err, &wrong) || errors.As(err, &badUID) || errors.As(err, &missing) || errors.As(err, &limit) || errors.As(err, &malformed) ||
		errors.Is(err, dicom.ErrNotDICOM) || errors.Is(err, dicom.ErrTruncated) || errors.Is(err, dicom.ErrMediaDirectory)
}
