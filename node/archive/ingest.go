package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
)

// Receipt is what was acknowledged: it is on disk.
type Receipt struct {
	UIDs      dicom.UIDs
	Size      int64
	SHA256    [sha256.Size]byte
	Duplicate bool // these very bytes were here already
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
	var (
		w     *cas.Writer
		key   cas.Key
		id    sourceID
		uids  dicom.UIDs
		begun bool
	)
	inst, err := dicom.Scan(r, a.Limits, dicom.Handler{
		Begin: func(u dicom.UIDs) error {
			for _, f := range []struct {
				name string
				uid  dicom.UID
			}{{"Study Instance UID", u.Study}, {"Series Instance UID", u.Series}, {"SOP Instance UID", u.Instance}} {
				if !f.uid.Valid() {
					return &BadUID{f.name}
				}
			}
			if o.Study != "" && u.Study != o.Study {
				return &WrongStudy{Want: o.Study, Got: u.Study}
			}
			uids, id = u, sourceID{Study: string(u.Study), Origin: a.Self}
			var err error
			if key, err = a.Keys.Create(id.keyName()); err != nil {
				return err
			}
			w, begun = cas.NewWriter(ctx, a.shelf(id, key), key), true
			return nil
		},
		Piece: func(p dicom.Piece) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return w.Write(cas.Span{Group: uint8(p.Section), Unit: p.Frame}, p.Data)
		},
	})
	if begun {
		defer w.Abort()
	}
	if err != nil {
		return Receipt{}, err
	}
	written, err := w.Close()
	if err != nil {
		return Receipt{}, err
	}
	receipt := Receipt{UIDs: uids, Size: written.Size, SHA256: written.SHA256}

	// Looked up once before the manifest is written, so that a re-send costs
	// nothing more, and again in the transaction, which decides.
	dup, err := a.taken(uids, written.SHA256)
	if dup && !a.readable(ctx, id, uids) {
		// The catalogue knows it and the store has lost it: "stored" would be a
		// lie, so it is stored again.
		dup = false
	}
	if err != nil || dup {
		receipt.Duplicate = dup
		if dup && o.Arrival {
			if err = a.arrived(id); err == nil {
				a.OnArrival(id.Study)
			}
		}
		return receipt, err
	}
	manifest := cas.InstanceManifest{
		UID: string(uids.Instance), Class: string(uids.Class), TransferSyntax: string(uids.TransferSyntax),
		Size: written.Size, SHA256: written.SHA256, HeaderLen: inst.HeaderLen, Blocks: written.Blocks, Pixel: pixelLayout(inst),
	}
	if inst.Deflated {
		manifest.HeaderLen = manifest.Size
	}
	ref, err := cas.SaveInstance(ctx, a.shelf(id, key), key, manifest)
	if err != nil {
		return Receipt{}, err
	}
	rec := instance{
		Class: manifest.Class, TransferSyntax: manifest.TransferSyntax, Size: written.Size, SHA256: written.SHA256[:],
		Manifest: ref, Attrs: pick(inst.Data, instanceTags).Encode(),
	}
	var first bool
	receipt.Duplicate, first, err = a.commit(id, uids, rec, inst.Data, o.Arrival)
	if err != nil {
		return Receipt{}, err
	}
	a.pub.touch(id.Study)
	a.news.tell(id.Study)
	if first {
		// Whoever was told that the study is stored may ask for it at once, so
		// the first instance is in the index before it is acknowledged. Should
		// that fail the instance is no less stored: the publisher goes on trying.
		if _, err := a.publish(ctx, id.Study); err != nil && ctx.Err() == nil {
			a.Log.Error("a new study could not be told to the region at once; it is tried again", "study", short(id.Study), "error", err)
		}
	}
	if o.Arrival {
		a.OnArrival(id.Study)
	}
	return receipt, nil
}

// readable says whether an instance that was received here before can still be
// given: its manifest opens and all its blocks are there.
func (a *Archive) readable(ctx context.Context, id sourceID, uids dicom.UIDs) bool {
	rec, err := a.instanceOf(id, string(uids.Series), string(uids.Instance))
	if err != nil {
		return false
	}
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		return false
	}
	shelf := a.shelf(id, key)
	m, err := cas.LoadInstance(ctx, shelf, key, rec.Manifest)
	if err != nil {
		return false
	}
	for _, b := range m.Blocks {
		if has, err := shelf.Has(ctx, b.CID); err != nil || !has {
			return false
		}
	}
	return true
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

// commit makes an instance visible: one transaction, synced before it returns.
// first says that nobody has been told of the study yet.
func (a *Archive) commit(id sourceID, uids dicom.UIDs, rec instance, data dicom.Dataset, arrival bool) (dup, first bool, err error) {
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	now := a.Now().UnixMilli()
	err = a.update(func(txn *badger.Txn) error {
		if dup, err = a.takenIn(txn, uids, [sha256.Size]byte(rec.SHA256)); err != nil {
			return err
		}
		if arrival {
			if err := putRecord(txn, id.key(tableArrival), now); err != nil {
				return err
			}
		}
		if dup {
			// The record is written anew: its blocks may have been lost.
			return putRecord(txn, id.instanceKey(tableInstance, string(uids.Series), string(uids.Instance)), rec)
		}
		s, err := getRecord[source](txn, id.key(tableSource))
		if errors.Is(err, errNoRecord) {
			s = source{Whole: true, Attrs: pick(data, studyTags).Encode()}
		} else if err != nil {
			return err
		} else if !s.Mixed {
			said, err := dicom.Decode(s.Attrs, a.Limits)
			if err != nil {
				return err
			}
			if s.Mixed = !a.samePerson(said, data); !s.Mixed {
				s.Attrs = fill(said, data).Encode()
			}
		}
		first = s.Revision == 0
		s.Dirty, s.LastChange, s.Settled = true, now, false
		s.Instances++
		s.Bytes += rec.Size
		if err := putRecord(txn, id.key(tableSource), s); err != nil {
			return err
		}
		if err := putRecord(txn, id.instanceKey(tableInstance, string(uids.Series), string(uids.Instance)), rec); err != nil {
			return err
		}
		seriesKey := id.seriesKey(string(uids.Series))
		if _, err := txn.Get(seriesKey); errors.Is(err, badger.ErrKeyNotFound) {
			if err := txn.Set(seriesKey, pick(data, seriesTags).Encode()); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		sopKey := append([]byte{tableSOP}, uids.Instance...)
		if copied, err := getRecord[sop](txn, sopKey); err == nil {
			if err := a.displace(txn, copied, uids.Instance, rec.SHA256); err != nil {
				return err
			}
		} else if !errors.Is(err, errNoRecord) {
			return err
		}
		return putRecord(txn, sopKey, sop{Study: id.Study, Series: string(uids.Series), Origin: id.Origin, SHA256: rec.SHA256})
	})
	return dup, first && !dup, err
}

// arrived notes that a study is new here although its bytes were here before.
func (a *Archive) arrived(id sourceID) error {
	err := a.db.Update(func(txn *badger.Txn) error {
		return putRecord(txn, id.key(tableArrival), a.Now().UnixMilli())
	})
	return err
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
	return noContradiction(
		x.String(dicom.TagPatientName), x.String(dicom.TagPatientBirthDate),
		y.String(dicom.TagPatientName), y.String(dicom.TagPatientBirthDate))
}

func (a *Archive) issuerOf(d dicom.Dataset) string {
	if v := d.String(dicom.TagIssuerOfPatientID); v != "" {
		return v
	}
	return a.Issuer
}

// noContradiction says that two names and birth dates may be one person's.
func noContradiction(nameX, bornX, nameY, bornY string) bool {
	if nameX != "" && nameY != "" && !dicom.NamesAgree(nameX, nameY) && dicom.FoldName(nameX) != dicom.FoldName(nameY) {
		return false
	}
	bornX, bornY = birthday(bornX), birthday(bornY)
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
