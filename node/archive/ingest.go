package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
			w, begun = cas.NewWriter(ctx, a.blocks, key), true
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
	if dup, err := a.taken(uids, written.SHA256); err != nil || dup {
		receipt.Duplicate = dup
		if dup && o.Arrival {
			err = a.arrived(id)
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
	ref, err := cas.SaveInstance(ctx, a.blocks, key, manifest)
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
	return receipt, nil
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
	case !bytes.Equal(first.SHA256, sum[:]):
		return false, &Conflict{uids.Instance}
	case first.Origin != a.Self:
		// A copy of another trust's is here; this node now has it first-hand
		// too and must be able to say so.
		own := sourceID{Study: string(uids.Study), Origin: a.Self}
		_, err := getRecord[instance](txn, own.instanceKey(tableInstance, string(uids.Series), string(uids.Instance)))
		if errors.Is(err, errNoRecord) {
			return false, nil
		}
		return err == nil, err
	}
	return true, nil
}

// commit makes an instance visible: one transaction, synced before it returns.
// first says that nobody has been told of the study yet.
func (a *Archive) commit(id sourceID, uids dicom.UIDs, rec instance, data dicom.Dataset, arrival bool) (dup, first bool, err error) {
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	now := a.Now().UnixMilli()
	err = a.db.Update(func(txn *badger.Txn) error {
		if dup, err = a.takenIn(txn, uids, [sha256.Size]byte(rec.SHA256)); err != nil || dup {
			return err
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
			if s.Mixed = !samePerson(said, data); !s.Mixed {
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
		if arrival {
			if err := putRecord(txn, id.key(tableArrival), now); err != nil {
				return err
			}
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
		if _, err := txn.Get(sopKey); errors.Is(err, badger.ErrKeyNotFound) {
			return putRecord(txn, sopKey, sop{Study: id.Study, Series: string(uids.Series), Origin: id.Origin, SHA256: rec.SHA256})
		} else if err != nil {
			return err
		}
		return nil
	})
	return dup, first && !dup, err
}

// arrived notes that a study is new here although its bytes were here before.
func (a *Archive) arrived(id sourceID) error {
	err := a.db.Update(func(txn *badger.Txn) error {
		return putRecord(txn, id.key(tableArrival), a.Now().UnixMilli())
	})
	if err == nil {
		a.pub.touch(id.Study)
	}
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
func samePerson(x, y dicom.Dataset) bool {
	idX, idY := x.String(dicom.TagPatientID), y.String(dicom.TagPatientID)
	if idX != "" && idY != "" && idX != idY {
		return false
	}
	if ix, iy := x.String(dicom.TagIssuerOfPatientID), y.String(dicom.TagIssuerOfPatientID); ix != iy && idX != "" && idY != "" {
		return false
	}
	nameX, nameY := x.String(dicom.TagPatientName), y.String(dicom.TagPatientName)
	namesDiffer := nameX != "" && nameY != "" && !dicom.NamesAgree(nameX, nameY)
	bornX, bornY := x.String(dicom.TagPatientBirthDate), y.String(dicom.TagPatientBirthDate)
	bornDiffer := bornX != "" && bornY != "" && bornX != bornY
	return !namesDiffer && !bornDiffer
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
