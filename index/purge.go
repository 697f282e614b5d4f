package index

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// Badger keeps what was deleted: in the logs of its memtables, and in tables until they happen to be compacted, which for the lower
// levels may be never. What removes every version of a key is DropPrefix: it writes the memtables out, and rewrites the tables of
// level 0 and, of the other levels, those that hold such a key, leaving it out. It passes over a prefix under which no live row is, so
// one is put there first, marked so that nobody takes it for one. And it goes by prefix: rows of others whose keys begin with a doomed
// key are kept aside in the table of saved rows and put back.

// purgeMark is the user meta of the rows that DropPrefix is shown.
const purgeMark byte = 0x70

// Purged says of a row that it is none: it stands there for the moment while what was there before is removed from the files. Whoever
// reads the database with an iterator of his own passes over such rows. Rows that are to stay may be missing meanwhile: see View.
func Purged(item *badger.Item) bool { return item.UserMeta() == purgeMark }

const (
	purgeFacts  = 256      // facts purged together
	purgeKeys   = 4096     // keys looked at together
	purgeAtOnce = 24       // prefixes given to DropPrefix at once
	purgeBytes  = 16 << 20 // bytes of tables that are rewritten at once, but for one prefix's: others wait until each lot is done
	purgeTries  = 3
	viewTries   = 3
	filesGone   = 30 * time.Second // for readers to let go of files that are replaced
	filesLook   = 20 * time.Millisecond
)

// ErrPurge says that what was deleted may still be in the database's files. Purging again is always right.
var ErrPurge = errors.New("what was deleted may still be in files of the index; it is tried again")

// errAside says that a purge has failed between taking rows away and putting back those that stay. Until they are back nobody may
// believe that a row is not there. The next purge puts them back, and so does opening the index.
var errAside = errors.New("rows that a purge has kept aside could not be put back yet; it is tried again, and at the next start")

// Update is badger's, for everybody who shares the index's database: it waits while files are being purged, when badger takes no writes.
// Inside fn every row is there. fn must not call Update, nor anything of Index that writes.
func (x *Index) Update(fn func(*badger.Txn) error) error {
	if x.writes != nil {
		x.writes()
	}
	x.gate.RLock()
	defer x.gate.RUnlock()
	if x.purging() {
		return errAside
	}
	return x.db.Update(fn)
}

// View is badger's, for everybody who shares the index's database, and the only way to read it outside of Update. A purge takes all
// versions of the rows that it drops, also of those that it puts back: a view that overlaps one may miss rows that nobody has deleted,
// without an error. So fn is called again whenever there was a purge meanwhile: each time it must begin anew with what it collects.
//
// Who holds write may call it: no purge is at work then, nor waits for him. So it takes turn, which a purge takes before write, only when a
// purge has overlapped fn, and that none can while write is held.
func (x *Index) View(fn func(*badger.Txn) error) error {
	for try := 1; ; try++ {
		if try == viewTries { // purges follow each other, or fn takes long: the next one waits
			x.turn.RLock()
			defer x.turn.RUnlock()
		}
		before := x.purges.Load()
		if before%2 == 1 {
			x.gate.RLock() // after the purge
			before = x.purges.Load()
			x.gate.RUnlock()
			if before%2 == 1 {
				return errAside // it has failed
			}
		}
		if err := x.db.View(fn); x.purges.Load() == before {
			return err
		}
	}
}

// purging says whether rows may be missing now.
func (x *Index) purging() bool { return x.purges.Load()%2 == 1 }

// mend puts back what a purge that failed has kept aside.
func (x *Index) mend() error {
	if !x.purging() {
		return nil
	}
	x.turn.Lock()
	defer x.turn.Unlock()
	x.write.Lock()
	defer x.write.Unlock()
	x.gate.Lock()
	defer x.gate.Unlock()
	return x.mended()
}

// mended is mend for who has locked everybody out.
func (x *Index) mended() error {
	if !x.purging() {
		return nil
	}
	if err := x.putBack(); err != nil {
		return fmt.Errorf("%w: %w", errAside, err)
	}
	x.purges.Add(1)
	return nil
}

// Purge removes from the files of the database what retractions have taken back, and what a snapshot has left out, if there is any.
func (x *Index) Purge(ctx context.Context) error {
	if err := x.mend(); err != nil {
		return err
	}
	if err := x.purgeDoomed(ctx); err != nil {
		return err
	}
	return x.purgeStale(ctx)
}

// purgeStale removes the former versions of rows from which a snapshot has left something out: it may be taken back later, and nobody
// would find it then.
func (x *Index) purgeStale(ctx context.Context) error {
	for {
		var keys, noted [][]byte
		if err := x.View(func(txn *badger.Txn) error {
			keys, noted = nil, nil
			return scan(txn, []byte{tabStale}, []byte{tabStale}, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
				keys, noted = append(keys, bytes.Clone(k[1:])), append(noted, bytes.Clone(k))
				return len(keys) < purgeKeys, nil
			})
		}); err != nil || len(keys) == 0 {
			return err
		}
		var gone, stay [][]byte
		for _, k := range keys {
			if k[0] == tabBlock {
				stay = append(stay, k)
			} else {
				gone = append(gone, k)
			}
		}
		if err := x.purge(ctx, doomedKeys{keys: gone, kind: unlessLive}); err != nil {
			return err
		}
		if err := x.purge(ctx, doomedKeys{keys: stay, kind: rewritten, rewrite: asItIs}); err != nil {
			return err
		}
		for some := range slices.Chunk(noted, purgeFacts) {
			if err := x.Update(func(txn *badger.Txn) error {
				for _, k := range some {
					if err := txn.Delete(k); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				return err
			}
		}
	}
}

func (x *Index) purgeDoomed(ctx context.Context) error {
	for {
		work, err := x.doomed()
		if err != nil || len(work.at) == 0 {
			return err
		}
		// In steps: the payloads say what else has to go, so they go last. A fact that has been said again stays, in its last version only.
		if err := x.purge(ctx, doomedKeys{keys: work.facts, kind: rewritten, rewrite: asItIs}); err != nil {
			return err
		}
		if err := x.purge(ctx, doomedKeys{keys: work.dead, kind: unlessLive}); err != nil {
			return err
		}
		if err := x.purge(ctx, doomedKeys{keys: work.parts, kind: rewritten, rewrite: work.without}); err != nil {
			return err
		}
		if err := x.Update(func(txn *badger.Txn) error {
			for _, k := range work.at {
				if err := txn.Delete(k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

// doomed is what a purge has to remove.
type doomed struct {
	at    [][]byte        // rows of the table of doomed payloads
	goes  map[string]bool // the same
	parts [][]byte        // rows that hold them
	facts [][]byte        // rows that hold their bodies
	dead  [][]byte        // other rows that the facts brought about; one that is there again is the same, and stays
}

func asItIs(_, v []byte) ([]byte, error) { return v, nil }

func (x *Index) doomed() (d doomed, err error) {
	err = x.View(func(txn *badger.Txn) error {
		d = doomed{goes: map[string]bool{}}
		err := scan(txn, []byte{tabDoomed}, []byte{tabDoomed}, false, func(k []byte, _ func() ([]byte, error)) (bool, error) {
			d.at = append(d.at, bytes.Clone(k))
			d.goes[string(k)] = true
			return len(d.at) < purgeFacts, nil
		})
		if err != nil {
			return err
		}
		seen := map[string]bool{}
		add := func(list *[][]byte, k []byte) {
			if !seen[string(k)] {
				seen[string(k)] = true
				*list = append(*list, k)
			}
		}
		for _, at := range d.at {
			if len(at) != 1+2+positionSize {
				return errDamaged("the key of a retracted fact")
			}
			no, p := authorNo(binary.BigEndian.Uint16(at[1:])), keyPosition(at)
			a, err := x.author(txn, no)
			if err != nil {
				return err
			}
			r, err := cover(txn, no, p)
			if err != nil {
				return err
			}
			payload := r.here(p.Seq)
			if payload != nil {
				add(&d.parts, logKey(tabPart, no, Position{p.Epoch, r.loc(p.Seq).last}))
			}
			b, err := blockIn(txn, no, p)
			if err != nil {
				return err
			}
			if b != nil && b.at(p.Seq).in && !b.at(p.Seq).payload.dropped() {
				payload = &b.at(p.Seq).payload
				add(&d.parts, b.key())
			}
			if payload == nil {
				continue
			}
			s, err := decodePayload(payload.Data)
			if err != nil {
				continue
			}
			for _, k := range x.trail(a, s) {
				if k[0] == tabFact {
					add(&d.facts, k)
				} else {
					add(&d.dead, k)
				}
			}
		}
		return nil
	})
	return d, err
}

// trail lists the rows that a fact may have brought about.
func (x *Index) trail(a author, s Statement) (keys [][]byte) {
	switch s.Kind {
	case KindStudy:
		study, err := decodeStudy(s.Subject, s.Body)
		if err != nil {
			return nil
		}
		keys = append(keys, studyRow(x.studyKey(study.UID)))
		for _, t := range x.trustsOf(a) {
			rows, person, pk := x.rows(study, a.no, t)
			for _, r := range rows {
				keys = append(keys, r.key)
			}
			keys = append(append(keys, personRow(pk)), x.personRows(person, pk)...)
		}
	case KindHolding:
		if h, err := decodeHolding(s.Subject, s.Body); err == nil {
			keys = append(keys, holdingKey(x.studyKey(h.Study), a.no, h.Origin))
		}
	default:
		keys = append(keys, factKey(s.Kind, s.Subject, a.no))
		if l, err := decodeLink(s.Subject, s.Body); s.Kind == KindLink && err == nil {
			keys = append(keys, linkKeys(a.no, l)...)
		}
	}
	return keys
}

// without returns the row of a part without the payloads that are to go: those alone whose trail is known. One that has been taken back
// since waits for the next round.
func (d doomed) without(k, v []byte) ([]byte, error) {
	if k[0] == tabBlock {
		b, err := readBlock(k, v)
		if err != nil {
			return nil, err
		}
		for i := range b.slots {
			if s := &b.slots[i]; d.goes[string(logKey(tabDoomed, b.no, Position{b.epoch, b.first() + Seq(i)}))] && !s.payload.dropped() {
				s.commit = s.payload.commitment()
				s.payload = Payload{}
			}
		}
		return b.encode(), nil
	}
	p, err := readPart(k, v)
	if err != nil {
		return nil, err
	}
	for i := range p.payloads {
		if d.goes[string(logKey(tabDoomed, p.no, Position{p.epoch, p.first() + Seq(i)}))] {
			p.payloads[i] = Payload{}
		}
	}
	return p.encode(), nil
}

// trustsOf lists whose a node has been while its logs were taken.
func (x *Index) trustsOf(a author) []TrustID {
	out := []TrustID{a.trust}
	x.mu.RLock()
	defer x.mu.RUnlock()
	for id, st := range x.logs {
		if id.Node == a.node && !slices.Contains(out, st.trust) {
			out = append(out, st.trust)
		}
	}
	return out
}

// Drop removes rows from the database and everything that was ever under their keys from its files: those with one of the keys, and
// those whose keys begin with one of the prefixes. It is for tables of others who share the database. While it works nobody writes,
// and who reads by View begins anew when it is over.
func (x *Index) Drop(ctx context.Context, keys, prefixes [][]byte) error {
	return x.purge(ctx, doomedKeys{keys: keys, kind: single}, doomedKeys{keys: prefixes, kind: whole})
}

func (x *Index) purge(ctx context.Context, lists ...doomedKeys) error {
	for _, list := range lists {
		for part := range slices.Chunk(list.keys, purgeKeys) {
			some := list
			some.keys = part
			if err := x.purgeSome(ctx, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// doomedKeys are keys to be dropped, and in which way.
type doomedKeys struct {
	keys    [][]byte
	kind    keyKind
	rewrite func(k, v []byte) ([]byte, error) // of rewritten: the value that stays
}

type keyKind byte

const (
	single     keyKind = iota
	unlessLive         // single, but one that is there again stays
	rewritten          // single, but its row comes back with another value
	whole              // with all that begin with it
)

func (x *Index) purgeSome(ctx context.Context, d doomedKeys) error {
	old, err := x.files()
	if err != nil {
		return err
	}
	dropped := false
	for tries := 0; len(d.keys) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		any, rest, left, err := x.dropOnce(d)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPurge, err)
		}
		if left {
			if tries++; tries == purgeTries {
				return ErrPurge
			}
			continue
		}
		dropped = dropped || any
		d.keys = rest
	}
	if !dropped {
		return nil
	}
	return x.awaitGone(ctx, old)
}

// dropOnce drops as many of the keys as may keep others waiting at once, if there are any. It returns those that are still to be
// dropped, and says whether anything is left of those that are not.
func (x *Index) dropOnce(d doomedKeys) (any bool, rest [][]byte, left bool, err error) {
	x.turn.Lock()
	defer x.turn.Unlock()
	x.write.Lock()
	defer x.write.Unlock()
	x.gate.Lock()
	defer x.gate.Unlock()
	if err := x.mended(); err != nil {
		return false, nil, false, err
	}
	var p dropPlan
	if err := x.db.View(func(txn *badger.Txn) (err error) {
		p, err = planDrop(txn, d, newRewrite(x.db.Tables(), purgeBytes))
		if err == nil {
			err = p.chooseAside(txn)
		}
		return err
	}); err != nil || len(p.prefixes) == 0 {
		return false, nil, false, err
	}
	x.purges.Add(1)
	dropErr := x.drop(p)
	if err := errors.Join(dropErr, x.mended()); err != nil {
		return false, nil, false, err
	}
	err = x.db.View(func(txn *badger.Txn) error {
		for _, k := range p.keys {
			versions := 0
			if err := anyVersion(txn, k, func(found []byte) {
				if d.kind == whole || bytes.Equal(found, k) {
					versions++
				}
			}); err != nil {
				return err
			}
			left = left || versions > 1 || versions == 1 && d.kind != rewritten
		}
		return nil
	})
	return true, p.rest, left, err
}

// drop keeps rows aside and drops what a plan says. The caller puts them back, whatever comes of it.
func (x *Index) drop(p dropPlan) error {
	if p.aside == nil { // none of them is free: an earlier purge was broken off
		if err := x.dropStale(p.stale); err != nil {
			return err
		}
		p.aside, p.stale = p.stale[0], nil
	}
	if err := x.writeMany(len(p.saved), func(txn *badger.Txn, i int) error {
		return txn.Set(append(bytes.Clone(p.aside), p.saved[i].key...), p.saved[i].value)
	}); err != nil {
		return err
	}
	p.empty, p.prefixes = append(p.empty, p.stale...), append(p.prefixes, p.stale...)
	if err := x.writeMany(len(p.empty), func(txn *badger.Txn, i int) error {
		return txn.SetEntry(badger.NewEntry(p.empty[i], nil).WithMeta(purgeMark))
	}); err != nil {
		return err
	}
	if err := x.db.DropPrefix(p.prefixes...); err != nil {
		return err
	}
	if x.dropped != nil {
		x.dropped()
	}
	return nil
}

// dropStale drops prefixes under which no row is.
func (x *Index) dropStale(prefixes [][]byte) error {
	if err := x.writeMany(len(prefixes), func(txn *badger.Txn, i int) error {
		return txn.SetEntry(badger.NewEntry(prefixes[i], nil).WithMeta(purgeMark))
	}); err != nil {
		return err
	}
	return x.db.DropPrefix(prefixes...)
}

// savedPrefixes begin the rows that a purge keeps aside: now the ones, now the others, so that the next purge can drop what is left of
// these in the files. What was kept aside may be taken back itself.
var savedPrefixes = [][]byte{{tabSaved, 0x00}, {tabSaved, 0xff}}

// chooseAside says under which prefix to keep rows aside, nil if none is free, and what there is to drop.
func (p *dropPlan) chooseAside(txn *badger.Txn) error {
	for _, prefix := range savedPrefixes {
		used := false
		if err := anyVersion(txn, prefix, func([]byte) { used = true }); err != nil {
			return err
		}
		if used {
			p.stale = append(p.stale, prefix)
		} else {
			p.aside = prefix
		}
	}
	return nil
}

// anyVersion calls fn with the keys that begin with a prefix and of which any version is left, deleted ones too.
func anyVersion(txn *badger.Txn, prefix []byte, fn func([]byte)) error {
	it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, AllVersions: true})
	defer it.Close()
	for it.Rewind(); it.ValidForPrefix(prefix); it.Next() {
		fn(it.Item().Key())
	}
	return nil
}

type row struct{ key, value []byte }

// dropPlan is what to give to DropPrefix and what to do about it.
type dropPlan struct {
	prefixes [][]byte
	keys     [][]byte // that they are for
	empty    [][]byte // those of the prefixes under which no row is
	saved    []row    // rows of others under them
	rest     [][]byte // keys for another time
	aside    []byte   // prefix to keep saved rows under
	stale    [][]byte // prefixes of rows that were kept aside
}

// rewrite counts the bytes of the tables that DropPrefix rewrites for some prefixes. Those of level 0 it rewrites every time.
type rewrite struct {
	tables []badger.TableInfo // of the levels below 0
	hit    []bool
	bytes  uint64
	limit  uint64
}

func newRewrite(tables []badger.TableInfo, limit uint64) *rewrite {
	tables = slices.DeleteFunc(tables, func(t badger.TableInfo) bool { return t.Level == 0 })
	return &rewrite{tables: tables, hit: make([]bool, len(tables)), limit: limit}
}

// add says whether a prefix may be dropped beside those before it. The first always may.
func (r *rewrite) add(prefix []byte, first bool) bool {
	var more uint64
	var hits []int
	for i, t := range r.tables {
		if r.hit[i] || bytes.Compare(t.Right, prefix) < 0 || bytes.Compare(t.Left, prefix) > 0 && !bytes.HasPrefix(t.Left, prefix) {
			continue
		}
		hits = append(hits, i)
		more += uint64(t.OnDiskSize)
	}
	if !first && r.bytes+more > r.limit {
		return false
	}
	for _, i := range hits {
		r.hit[i] = true
	}
	r.bytes += more
	return true
}

// planDrop finds few prefixes that cover the keys and, if it can be, no row of others, as many as may be dropped at once. Nobody writes
// meanwhile.
func planDrop(txn *badger.Txn, d doomedKeys, files *rewrite) (p dropPlan, err error) {
	goes := make(map[string]bool, len(d.keys))
	for _, k := range d.keys {
		if d.kind == unlessLive {
			if _, live, err := get(txn, k); err != nil || live {
				if err != nil {
					return p, err
				}
				continue
			}
		}
		goes[string(k)] = true
	}
	keys := make([][]byte, 0, len(goes))
	for k := range goes {
		keys = append(keys, []byte(k))
	}
	slices.SortFunc(keys, bytes.Compare)
	// under says whether there are rows under a prefix, and which of them stay: all, or whether there is one.
	under := func(prefix []byte, all bool) (some bool, stay []row, err error) {
		err = scan(txn, prefix, prefix, false, func(k []byte, value func() ([]byte, error)) (bool, error) {
			some = true
			if d.kind == whole {
				return false, nil
			}
			if goes[string(k)] && d.kind != rewritten {
				return true, nil
			}
			r := row{key: bytes.Clone(k)}
			if all {
				var err error
				if r.value, err = value(); err != nil {
					return false, err
				}
				if goes[string(k)] {
					if r.value, err = d.rewrite(k, r.value); err != nil {
						return false, err
					}
				}
			}
			stay = append(stay, r)
			return all, nil
		})
		return some, stay, err
	}
	full := false
	var cover func(keys [][]byte) error
	cover = func(keys [][]byte) error {
		if full || len(p.prefixes) == purgeAtOnce {
			p.rest = append(p.rest, keys...)
			return nil
		}
		prefix := common(keys[0], keys[len(keys)-1])
		if len(keys) > 1 && len(prefix) < 2 || d.kind == whole && len(keys) > 1 {
			prefix = nil
		}
		if prefix != nil {
			some, stay, err := under(prefix, len(keys) == 1)
			if err != nil {
				return err
			}
			if len(keys) == 1 || len(stay) == 0 {
				if !files.add(prefix, len(p.prefixes) == 0) {
					p.rest = append(p.rest, keys...)
					full = true
					return nil
				}
				p.prefixes, p.keys, p.saved = append(p.prefixes, prefix), append(p.keys, keys...), append(p.saved, stay...)
				if !some {
					p.empty = append(p.empty, prefix)
				}
				return nil
			}
		}
		if err := cover(keys[:len(keys)/2]); err != nil {
			return err
		}
		return cover(keys[len(keys)/2:])
	}
	if len(keys) == 0 {
		return p, nil
	}
	return p, cover(keys)
}

func common(a, b []byte) []byte {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// putBack restores the rows that were kept aside, also after an interruption.
func (x *Index) putBack() error {
	if x.putBackFault != nil {
		if err := x.putBackFault(); err != nil {
			return err
		}
	}
	for {
		var rows []row
		var under [][]byte
		err := x.db.View(func(txn *badger.Txn) error {
			return scan(txn, []byte{tabSaved}, []byte{tabSaved}, true, func(k []byte, value func() ([]byte, error)) (bool, error) {
				v, err := value()
				key := k[1:]
				for _, p := range savedPrefixes {
					if bytes.HasPrefix(k, p) {
						key = k[len(p):]
					}
				}
				rows, under = append(rows, row{bytes.Clone(key), v}), append(under, bytes.Clone(k))
				return err == nil && len(rows) < purgeKeys, err
			})
		})
		if err != nil || len(rows) == 0 {
			return err
		}
		err = x.writeMany(len(rows), func(txn *badger.Txn, i int) error {
			if err := txn.Set(rows[i].key, rows[i].value); err != nil {
				return err
			}
			return txn.Delete(under[i])
		})
		if err != nil {
			return err
		}
	}
}

// writeMany writes n rows in as many transactions as they take. The caller keeps everybody else from writing.
func (x *Index) writeMany(n int, write func(*badger.Txn, int) error) error {
	const each = 64
	for i := 0; i < n; i += each {
		if err := x.db.Update(func(txn *badger.Txn) error {
			for j := i; j < min(i+each, n); j++ {
				if err := write(txn, j); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// files lists the files of the database that hold rows.
func (x *Index) files() (out []string, err error) {
	if x.db.Opts().InMemory {
		return nil, nil
	}
	for _, pattern := range []string{"*.mem", "*.sst"} {
		names, err := filepath.Glob(filepath.Join(x.db.Opts().Dir, pattern))
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	return out, nil
}

// awaitGone waits until those of the files that the database no longer uses are gone: a reader keeps them open until it ends.
func (x *Index) awaitGone(ctx context.Context, old []string) error {
	if len(old) == 0 {
		return nil
	}
	used := map[string]bool{}
	for _, t := range x.db.Tables() {
		used[filepath.Join(x.db.Opts().Dir, fmt.Sprintf("%06d.sst", t.ID))] = true
	}
	ctx, cancel := context.WithTimeout(ctx, filesGone)
	defer cancel()
	look := time.NewTicker(filesLook)
	defer look.Stop()
	for {
		left := 0
		for _, name := range old {
			if _, err := os.Stat(name); err == nil && !used[name] {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %d files are still being read", ErrPurge, left)
		case <-look.C:
		}
	}
}
