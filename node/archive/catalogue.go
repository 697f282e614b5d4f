package archive

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Tables of the catalogue; doc.go gives their layout.
const (
	tableInstance byte = 0x40
	tableSOP      byte = 0x41
	tableSource   byte = 0x42
	tableSeries   byte = 0x43
	tableConflict byte = 0x44
	tableArrival  byte = 0x45
	tableDamage   byte = 0x46
	tableShelved  byte = 0x47
	tablePin      byte = 0x48
	tableScrub    byte = 0x4a
	tableLost     byte = 0x4b
	tableUnlooked byte = 0x4c
	tableErasure  byte = 0x49
	tableTask     byte = 0x60
)

// sourceID names one version of a study: the one that Origin says. Two trusts
// that each received the same study are two sources of it, with two study
// keys, and are never mixed on disk.
type sourceID struct {
	Study  string
	Origin index.NodeID
}

// keyName is the study key's name in the keyring.
func (s sourceID) keyName() string { return s.Study + "/" + s.Origin.String() }

func (s sourceID) key(table byte) []byte {
	k := make([]byte, 0, 2+len(s.Study)+len(s.Origin))
	k = append(k, table)
	k = append(k, s.Study...)
	k = append(k, 0)
	return append(k, s.Origin[:]...)
}

func parseSourceID(k []byte) (sourceID, []byte, bool) {
	i := bytes.IndexByte(k[1:], 0) + 1
	if i == 0 || len(k) < i+1+len(index.NodeID{}) {
		return sourceID{}, nil, false
	}
	id := sourceID{Study: string(k[1:i])}
	rest := k[i+1:]
	copy(id.Origin[:], rest)
	return id, rest[len(id.Origin):], true
}

func (s sourceID) seriesKey(series string) []byte { return append(s.key(tableSeries), series...) }

func (s sourceID) instanceKey(table byte, series, sop string) []byte {
	k := append(s.key(table), series...)
	k = append(k, 0)
	return append(k, sop...)
}

// source is what this node knows of one version of a study.
type source struct {
	Revision   uint64   `cbor:"1,keyasint"`           // own: the newest published; copy: of Manifest
	Manifest   *cas.Ref `cbor:"2,keyasint,omitempty"` // study manifest of Revision; nil until there is one
	Settled    bool     `cbor:"3,keyasint"`
	Dirty      bool     `cbor:"4,keyasint"` // own: there is more than Revision says
	LastChange int64    `cbor:"5,keyasint"` // own: Unix ms of the newest instance
	Instances  int      `cbor:"6,keyasint"` // own: instances here
	Bytes      int64    `cbor:"7,keyasint"`
	Attrs      []byte   `cbor:"8,keyasint"` // own: study-level attributes of the first instance
	Mixed      bool     `cbor:"9,keyasint"` // instances disagree on whose study it is; copy: or with what its origin says
	Whole      bool     `cbor:"10,keyasint"`
	Conflicts  int      `cbor:"11,keyasint"` // copy: instances not kept, their UID being taken by other bytes
	Beyond     int      `cbor:"12,keyasint"` // copy: of Instances, what Manifest does not list: see Archive.beyond
}

// lost says of what was received here that nothing of it is in the catalogue, or
// only what has come back so far: see Archive.returns.
func (s source) lost() bool { return s.Instances == 0 && s.Manifest == nil }

// instance is one stored SOP instance of a source.
type instance struct {
	Class          string  `cbor:"1,keyasint"`
	TransferSyntax string  `cbor:"2,keyasint"`
	Size           int64   `cbor:"3,keyasint"`
	SHA256         []byte  `cbor:"4,keyasint"`
	Manifest       cas.Ref `cbor:"5,keyasint"`
	Attrs          []byte  `cbor:"6,keyasint"`
	Other          bool    `cbor:"7,keyasint,omitempty"` // copy: it names another patient than its origin says of the study
}

// sop is where a SOP Instance UID was first seen here; the first bytes keep it.
type sop struct {
	Study  string       `cbor:"1,keyasint"`
	Series string       `cbor:"2,keyasint"`
	Origin index.NodeID `cbor:"3,keyasint"`
	SHA256 []byte       `cbor:"4,keyasint"`
}

// source is the version of a study that the instance belongs to.
func (s sop) source() sourceID { return sourceID{Study: s.Study, Origin: s.Origin} }

// rows is how the catalogue is read: by the index's View, which calls fn again
// when rows may have been missing for the moment of a purge. So fn begins anew
// with what it collects.
type rows interface {
	View(fn func(*badger.Txn) error) error
}

var errNoRecord = errors.New("not in the catalogue")

func getItem(txn *badger.Txn, key []byte) (*badger.Item, error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) || err == nil && index.Purged(item) {
		return nil, errNoRecord
	}
	return item, err
}

func getRecord[T any](txn *badger.Txn, key []byte) (T, error) {
	var v T
	item, err := getItem(txn, key)
	if err != nil {
		return v, err
	}
	err = item.Value(func(b []byte) error { return cbor.Unmarshal(b, &v) })
	if err != nil {
		return v, fmt.Errorf("catalogue record of table 0x%02x cannot be read: %w", key[0], err)
	}
	return v, nil
}

// hasRecord says whether there is a record, whatever is in it.
func hasRecord(txn *badger.Txn, key []byte) (bool, error) {
	_, err := getItem(txn, key)
	if errors.Is(err, errNoRecord) {
		return false, nil
	}
	return err == nil, err
}

func (a *Archive) hasRecord(key []byte) (has bool, err error) {
	err = a.db.View(func(txn *badger.Txn) (err error) {
		has, err = hasRecord(txn, key)
		return err
	})
	return has, err
}

func putRecord(txn *badger.Txn, key []byte, v any) error {
	b, err := cbor.Marshal(v)
	if err != nil {
		return err
	}
	return txn.Set(key, b)
}

// eachRecord visits the records below prefix in key order. The key is only
// valid during the call.
func eachRecord[T any](txn *badger.Txn, prefix []byte, fn func(key []byte, v T) error) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 100})
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		var v T
		item := it.Item()
		if index.Purged(item) {
			continue
		}
		if err := item.Value(func(b []byte) error { return cbor.Unmarshal(b, &v) }); err != nil {
			return fmt.Errorf("catalogue record of table 0x%02x cannot be read: %w", item.Key()[0], err)
		}
		if err := fn(item.Key(), v); err != nil {
			return err
		}
	}
	return nil
}

func (a *Archive) source(id sourceID) (source, error) {
	var s source
	err := a.db.View(func(txn *badger.Txn) (err error) {
		s, err = getRecord[source](txn, id.key(tableSource))
		return err
	})
	return s, err
}

// sourcesOf lists what is here, whole or in part, of a study.
func (a *Archive) sourcesOf(study string) (map[index.NodeID]source, error) {
	out := make(map[index.NodeID]source)
	prefix := append(append([]byte{tableSource}, study...), 0)
	err := a.db.View(func(txn *badger.Txn) error {
		clear(out)
		return eachRecord(txn, prefix, func(k []byte, s source) error {
			if id, _, ok := parseSourceID(k); ok {
				out[id.Origin] = s
			}
			return nil
		})
	})
	return out, err
}

// updateSource changes one source record and whatever else fn writes, durably
// and as one. Only the holder of the study's lock calls it.
func (a *Archive) updateSource(id sourceID, fn func(*badger.Txn, *source) error) error {
	return a.update(func(txn *badger.Txn) error {
		s, err := getRecord[source](txn, id.key(tableSource))
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if err := fn(txn, &s); err != nil {
			return err
		}
		return putRecord(txn, id.key(tableSource), s)
	})
}

// update is the index's Update, tried again when another study's transaction touched
// the same records: fn may run several times.
func (a *Archive) update(fn func(*badger.Txn) error) error {
	const tries = 10
	for i := 1; ; i++ {
		err := a.Index.Update(fn)
		if !errors.Is(err, badger.ErrConflict) || i == tries {
			return err
		}
	}
}

type catalogued struct {
	Series, SOP string
	instance
}

// instancesOf lists the instances of a source that are here, in key order.
func (a *Archive) instancesOf(id sourceID) ([]catalogued, error) {
	var out []catalogued
	err := a.db.View(func(txn *badger.Txn) error {
		out = nil
		return eachRecord(txn, id.key(tableInstance), func(k []byte, i instance) error {
			_, rest, ok := parseSourceID(k)
			series, uid, ok2 := bytes.Cut(rest, []byte{0})
			if ok && ok2 {
				out = append(out, catalogued{Series: string(series), SOP: string(uid), instance: i})
			}
			return nil
		})
	})
	return out, err
}

func (a *Archive) instanceOf(id sourceID, series, sopUID string) (instance, error) {
	var i instance
	err := a.db.View(func(txn *badger.Txn) (err error) {
		i, err = getRecord[instance](txn, id.instanceKey(tableInstance, series, sopUID))
		return err
	})
	return i, err
}

// uidsOf calls fn with series and instance of what is here of a source, for the
// first most instances; all is false when there are more.
func (a *Archive) uidsOf(id sourceID, most int, fn func(series, sop string)) (all bool, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		all = true
		prefix := id.key(tableInstance)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix})
		defer it.Close()
		n := 0
		for it.Rewind(); it.Valid(); it.Next() {
			if index.Purged(it.Item()) {
				continue
			}
			if n++; n > most {
				all = false
				return nil
			}
			if series, uid, ok := bytes.Cut(it.Item().Key()[len(prefix):], []byte{0}); ok {
				fn(string(series), string(uid))
			}
		}
		return nil
	})
	return all, err
}
