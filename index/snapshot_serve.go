package index

import (
	"github.com/dgraph-io/badger/v4"
)

// Offer implements SnapshotSource.
func (x *Index) Offer(node NodeID) (offer SnapshotOffer, root [32]byte, ok bool, err error) {
	a, known := x.known(node)
	if !known {
		return offer, root, false, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		var o Offered
		var stage byte
		if o, stage, ok, err = x.offer(txn, a.no, rowPending); err != nil {
			return err
		}
		if !ok || stage != stageDropping { // every part of one that is being dropped is here
			if o, _, ok, err = x.offer(txn, a.no, rowFinished); err != nil || !ok {
				return err
			}
		}
		offer, root = SnapshotOffer{Batch: o.Batch.Batch()}, o.Snapshot.Root
		return nil
	})
	return offer, root, ok, err
}

// Part implements SnapshotSource.
func (x *Index) Part(node NodeID, root [32]byte, part Part, index uint64) (raw []byte, ok bool, err error) {
	a, known := x.known(node)
	if !known {
		return nil, false, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		raw, ok = nil, false
		switch part {
		case PartList:
			raw, ok, err = get(txn, sheetKey(a.no, root, -1))
			return err
		case PartSheet:
			raw, ok, err = get(txn, sheetKey(a.no, root, int(index)))
			return err
		}
		for _, row := range []byte{rowPending, rowFinished} {
			o, _, have, err := x.offer(txn, a.no, row)
			if err != nil {
				return err
			}
			if !have || o.Snapshot.Root != root || index >= o.Snapshot.Pages {
				continue
			}
			list, have, err := get(txn, sheetKey(a.no, root, -1))
			if err != nil || !have {
				return err
			}
			sheets, err := o.Snapshot.ReadList(list)
			if err != nil {
				return errDamaged("the list of a snapshot")
			}
			sheet, have, err := get(txn, sheetKey(a.no, root, int(index/MaxSheet)))
			if err != nil || !have {
				return err
			}
			refs, err := o.Snapshot.ReadSheet(sheets, int(index/MaxSheet), sheet)
			if err != nil {
				return errDamaged("a sheet of a snapshot")
			}
			ref := refs[index%MaxSheet]
			which, have, err := readWhich(txn, pageKey(a.no, o.Snapshot.Head.Epoch, ref))
			if err != nil || !have {
				return err
			}
			r := x.pageReader(txn, a, o.Snapshot.Head.Epoch)
			defer r.close()
			v, _, have, err := r.page(ref, which)
			if err != nil || !have {
				return err
			}
			raw, ok = encode(v.page), true
			return nil
		}
		return nil
	})
	return raw, ok, err
}

// Newest implements SnapshotLogs.
func (x *Index) Newest(n NodeID) (o Offered, ok bool, err error) {
	a, known := x.known(n)
	if !known {
		return o, false, nil
	}
	err = x.View(func(txn *badger.Txn) error {
		o, ok = Offered{}, false
		v, have, err := get(txn, factKey(KindSnapshot, n.String(), a.no))
		if err != nil || !have {
			return err
		}
		at, err := readRecord(v)
		if err != nil {
			return err
		}
		r, err := cover(txn, a.no, at.at.Position)
		if err != nil || r == nil {
			return err
		}
		ver, err := r.batch(n).Verify()
		if err != nil {
			return errDamaged("a batch")
		}
		newest, err := ReadSnapshot(ver)
		if err != nil {
			return nil // of a later version, or its author's mistake
		}
		for _, row := range []byte{rowPending, rowFinished} {
			other, _, have, err := x.offer(txn, a.no, row)
			if err != nil || have && !newest.newer(other) {
				return err
			}
		}
		o, ok = newest, true
		return nil
	})
	return o, ok, err
}

// Base implements SnapshotLogs.
func (x *Index) Base(n NodeID) Position { return x.base(n) }

// Holed implements SnapshotLogs.
func (x *Index) Holed() (out []Offered, err error) {
	var authors []author
	x.mu.RLock()
	for _, a := range x.authors {
		if base := x.bases[a.node]; base.Seq > 0 && x.logs[logID{a.node, base.Epoch}].missing > 0 {
			authors = append(authors, a)
		}
	}
	x.mu.RUnlock()
	err = x.View(func(txn *badger.Txn) error {
		out = nil
		for _, a := range authors {
			_, _, pending, err := x.offer(txn, a.no, rowPending)
			if err != nil {
				return err
			}
			o, _, ok, err := x.offer(txn, a.no, rowFinished)
			if err != nil {
				return err
			}
			if ok && !pending {
				out = append(out, o)
			}
		}
		return nil
	})
	return out, err
}
