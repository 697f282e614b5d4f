package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// Limits of noting damage.
const (
	noteMost   = 256              // records written in one transaction
	whyMost    = 512              // bytes of a reason
	lookAgain  = 10 * time.Minute // between two looks at a source that a peer could not be served from
	mendersMax = 2                // sources repaired at the same time
)

// DamageKind says what is wrong.
type DamageKind string

// Kinds of damage.
const (
	DamagedBlock  DamageKind = "damaged"  // its bytes are not what was stored
	MissingBlock  DamageKind = "missing"  // it is not there
	WrongManifest DamageKind = "manifest" // a manifest cannot be understood, or contradicts the catalogue
	LostKey       DamageKind = "key"      // the study key is missing or cannot be opened
)

// damage is the record of one block that is not as it should be, or of a key.
// It is the quarantine: what has one is not served, and its bytes are left in
// place until there are good ones.
type damage struct {
	Kind   DamageKind `cbor:"1,keyasint"`
	Series string     `cbor:"2,keyasint,omitempty"` // with SOP: of this instance; alone: of a series' list
	SOP    string     `cbor:"3,keyasint,omitempty"`
	Of     *cas.Ref   `cbor:"4,keyasint,omitempty"` // the manifest it was reached from: the instance's, else the study's
	Found  int64      `cbor:"5,keyasint"`           // Unix ms
	Tried  int64      `cbor:"6,keyasint,omitempty"`
	Why    string     `cbor:"7,keyasint,omitempty"` // it is not repaired
}

// suspect is damage as somebody has met it, and the block it is about; of a
// key there is none.
type suspect struct {
	damage
	c cid.Cid
}

func (s sourceID) damageKey(c cid.Cid) []byte {
	k := s.key(tableDamage)
	if c.Defined() {
		k = append(k, c.Bytes()...)
	}
	return k
}

// keyDamaged says of an error that a study key is not what it was, and not
// that the keyring cannot be reached.
func keyDamaged(err error) bool {
	return errors.Is(err, cas.ErrNoKey) || errors.Is(err, cas.ErrMalformed) || errors.Is(err, cas.ErrTruncated) || errors.Is(err, syscall.EIO)
}

// whole reads a block and says what is wrong with it. An error that is not
// cas.Damaged is no damage.
func whole(ctx context.Context, g cas.Getter, c cid.Cid) ([]byte, error) {
	data, err := g.Get(ctx, c)
	if err == nil {
		err = cas.Block{CID: c, Data: data}.Verify()
	}
	return data, err
}

// replace stores a block in place of one that is damaged. The old bytes go only
// when the new ones are in hand: somebody may still read something from them.
func replace(ctx context.Context, shelf cas.Shelf, b cas.Block) error {
	if err := b.Verify(); err != nil {
		return err
	}
	if err := shelf.Put(ctx, b); err != nil {
		return err
	}
	if _, err := whole(ctx, shelf, b.CID); err == nil || !cas.Damaged(err) {
		return err
	}
	// The store could not tell that what it had was damaged.
	if err := shelf.Delete(ctx, b.CID); err != nil {
		return err
	}
	if err := shelf.Put(ctx, b); err != nil {
		return err
	}
	_, err := whole(ctx, shelf, b.CID)
	return err
}

// damages knows which sources have damage, repairs them, and counts.
type damages struct {
	a *Archive

	mu     sync.Mutex
	of     map[sourceID]*ailing
	looked map[sourceID]time.Time // when a source was last looked at because a peer could not be served
	wakeup chan struct{}          // closed and replaced when something may be due
	runs   map[*verification]struct{}

	verifying sync.Mutex // one verification that somebody asked for at a time
	read      atomic.Uint64
	repaired  atomic.Uint64
}

// ailing is a source with damage.
type ailing struct {
	blocks    int // records
	look      bool
	active    bool
	again     bool // something was noted while it was active
	ended     int  // attempts
	tries     int  // in a row without progress
	tried     time.Time
	notBefore time.Time
	why       string
}

func openDamages(a *Archive) (*damages, error) {
	d := &damages{a: a, of: make(map[sourceID]*ailing), looked: make(map[sourceID]time.Time), wakeup: make(chan struct{}), runs: make(map[*verification]struct{})}
	err := a.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableDamage}})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if id, _, ok := parseSourceID(it.Item().Key()); ok && !index.Purged(it.Item()) {
				d.at(id).blocks++
			}
		}
		return nil
	})
	return d, err
}

func (d *damages) at(id sourceID) *ailing {
	e := d.of[id]
	if e == nil {
		e = new(ailing)
		d.of[id] = e
	}
	return e
}

// ill says whether a source has damage that is known.
func (d *damages) ill(id sourceID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[id]
	return e != nil && e.blocks > 0
}

func (d *damages) wake() {
	close(d.wakeup)
	d.wakeup = make(chan struct{})
}

// added counts new records. It returns after how many ended attempts one that
// knew of them has ended.
func (d *damages) added(id sourceID, n int) (until int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.at(id)
	e.blocks += n
	if n > 0 {
		e.again, e.notBefore, e.tries = e.active, time.Time{}, 0
		d.wake()
	}
	return e.until()
}

func (e *ailing) until() int {
	if e.active {
		return e.ended + 2
	}
	return e.ended + 1
}

// urge has a source repaired soon: somebody waits for it. It says when the
// next attempt is, and after how many ended ones it has ended.
func (d *damages) urge(id sourceID) (next time.Time, until int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[id]
	if e == nil {
		return time.Time{}, 0
	}
	if now := d.a.Now(); !e.active && e.notBefore.After(now) && now.Sub(e.tried) >= d.a.fetching().RetryMin {
		e.notBefore = time.Time{}
		d.wake()
	}
	if e.active { // it may have begun before the damage was noted
		e.again = true
		return time.Time{}, e.until()
	}
	return e.notBefore, e.until()
}

// due has a source repaired now, if it has damage.
func (d *damages) due(study string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, e := range d.of {
		if id.Study == study {
			e.notBefore, e.again = time.Time{}, e.active
			d.wake()
		}
	}
}

// gone forgets a source of which nothing is here any more, nor any record.
func (d *damages) gone(id sourceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.looked, id)
	if e := d.of[id]; e != nil && e.active {
		e.blocks, e.look, e.again = 0, false, false
		return
	}
	delete(d.of, id)
}

// kick has everything repaired now: a peer came back.
func (d *damages) kick() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.of {
		e.notBefore = time.Time{}
	}
	d.wake()
}

// look has a source verified soon, as a whole: a block of it could not be given,
// and seldom is one block damaged alone.
func (d *damages) look(id sourceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.a.Now()
	if at, ok := d.looked[id]; ok && now.Sub(at) < lookAgain {
		return
	}
	for old, at := range d.looked {
		if now.Sub(at) >= lookAgain {
			delete(d.looked, old)
		}
	}
	d.looked[id] = now
	e := d.at(id)
	e.look = true
	if !e.active {
		e.notBefore = time.Time{}
		d.wake()
	}
}

// take waits for a source that is due.
func (d *damages) take(ctx context.Context) (sourceID, error) {
	for {
		d.mu.Lock()
		var soonest time.Time
		now := d.a.Now()
		for k, e := range d.of {
			if e.active {
				continue
			}
			if e.notBefore.After(now) {
				if soonest.IsZero() || e.notBefore.Before(soonest) {
					soonest = e.notBefore
				}
				continue
			}
			e.active, e.again = true, false
			d.mu.Unlock()
			return k, nil
		}
		wake := d.wakeup
		d.mu.Unlock()
		var timer <-chan time.Time
		stop := func() bool { return true }
		if !soonest.IsZero() {
			t := time.NewTimer(soonest.Sub(now))
			timer, stop = t.C, t.Stop
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer:
		}
		stop()
		if ctx.Err() != nil {
			return sourceID{}, ctx.Err()
		}
	}
}

// done ends an attempt. again says that the next follows at once, look that the
// source is to be verified first.
func (d *damages) done(id sourceID, left int, progress bool, why string) (again, look bool) {
	d.mu.Lock()
	e := d.at(id)
	e.active, e.blocks, e.why, e.tried = false, left, why, d.a.Now()
	e.ended++
	again, look, e.look = e.again, e.look, false
	switch {
	case left == 0 && !e.again:
		delete(d.of, id)
	case e.again:
		e.notBefore = time.Time{}
		d.wake()
	default:
		if progress {
			e.tries = 0
		}
		wait := d.a.fetching().RetryMin << min(e.tries, 16)
		if wait <= 0 || wait > d.a.fetching().RetryMax {
			wait = d.a.fetching().RetryMax
		}
		e.tries++
		e.notBefore = e.tried.Add(wait)
		d.wake()
	}
	d.mu.Unlock()
	d.a.news.tell(id.Study)
	return again, look
}

// ended is how many attempts at a source have ended and why the last one did
// not help; ill is false when there is nothing to repair (any more).
func (d *damages) ended(id sourceID) (n int, why string, ill bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[id]
	if e == nil {
		return 0, "", false
	}
	return e.ended, e.why, true
}

// rests says that nothing of a source is being repaired, nor will be at once.
func (d *damages) rests(id sourceID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.of[id]
	return e == nil || !e.active && e.notBefore.After(d.a.Now())
}

// mended counts what has been repaired, and tells who verifies.
func (d *damages) mended(id sourceID, n int, from index.TrustID) {
	d.repaired.Add(uint64(n))
	d.mu.Lock()
	defer d.mu.Unlock()
	for v := range d.runs {
		v.mended(id, n, from)
	}
}

// note writes down those suspects that are damage indeed: a study may have
// grown, been replaced, erased or repaired since somebody met them. It returns
// how many are.
func (a *Archive) note(ctx context.Context, id sourceID, list ...suspect) (int, error) {
	real, _, err := a.noteAll(ctx, id, list)
	return len(real), err
}

// noteAll returns which suspects are damage, and after how many ended attempts
// one to repair all of them has ended.
func (a *Archive) noteAll(ctx context.Context, id sourceID, list []suspect) (real []suspect, until int, err error) {
	if len(list) == 0 {
		return nil, 0, nil
	}
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	for _, x := range list {
		is, err := a.isDamage(ctx, id, x)
		if err != nil {
			return nil, 0, err
		}
		if is {
			real = append(real, x)
		}
	}
	if len(real) == 0 {
		return nil, 0, nil
	}
	added := 0
	for rest := real; len(rest) > 0; {
		n := min(len(rest), noteMost)
		k, err := a.writeDamage(id, rest[:n])
		if err != nil {
			return nil, 0, err
		}
		added += k
		rest = rest[n:]
	}
	if added > 0 {
		if !a.damage.ill(id) {
			trust, _ := a.Index.TrustOf(id.Origin)
			a.Log.Error("damage was found in what is stored of a study; it is quarantined, and repaired from whoever holds a copy", "study", short(id.Study), "received_by", string(trust), "kind", string(real[0].Kind))
		}
		a.grants.forget(id)
	}
	return real, a.damage.added(id, added), nil
}

func (a *Archive) writeDamage(id sourceID, list []suspect) (added int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	now := a.Now().UnixMilli()
	err = a.update(func(txn *badger.Txn) error {
		added = 0
		if a.erase.under(id) {
			return nil
		}
		for _, x := range list {
			k := id.damageKey(x.c)
			if noted, err := hasRecord(txn, k); err != nil {
				return err
			} else if noted {
				continue
			}
			x.Found = now
			if err := putRecord(txn, k, x.damage); err != nil {
				return err
			}
			added++
		}
		return nil
	})
	return added, err
}

// isDamage judges a suspect, or a record, by what the catalogue says now.
func (a *Archive) isDamage(ctx context.Context, id sourceID, x suspect) (bool, error) {
	s, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return false, err
	}
	known := err == nil
	if a.erase.under(id) {
		return false, nil
	}
	key, kerr := a.Keys.Get(id.keyName())
	if kerr != nil && !keyDamaged(kerr) {
		return false, kerr
	}
	if x.Kind == LostKey {
		return known && kerr != nil, nil
	}
	if kerr != nil {
		return false, nil // the lost key stands for all that it sealed
	}
	applies, contradicts, err := a.reached(ctx, id, s, x, key)
	if err != nil || !applies {
		return false, err
	}
	if x.Kind == WrongManifest {
		return contradicts, nil
	}
	_, err = whole(ctx, a.shelf(id, key), x.c)
	if err == nil || cas.Damaged(err) {
		return err != nil, nil
	}
	return false, err
}

// reached says whether the catalogue still leads to what a suspect is about,
// and whether what it says of it is wrong.
func (a *Archive) reached(ctx context.Context, id sourceID, s source, x suspect, key cas.Key) (applies, contradicts bool, err error) {
	if x.Of == nil {
		return false, false, nil
	}
	var row *instance
	if x.SOP != "" {
		rec, err := a.instanceOf(id, x.Series, x.SOP)
		if err != nil && !errors.Is(err, errNoRecord) {
			return false, false, err
		}
		if err == nil {
			row = &rec
		}
	}
	if row != nil && row.Manifest == *x.Of { // the instance's own
		if x.Kind != WrongManifest {
			return true, false, nil
		}
		m, err := cas.LoadInstance(ctx, a.shelf(id, key), key, row.Manifest)
		if err != nil && ctx.Err() != nil {
			return false, false, err
		}
		return true, err != nil || differs(m, x.SOP, *row), nil
	}
	study := s.Manifest != nil && *s.Manifest == *x.Of
	if st, told := a.statementOf(id); !study && told && id.Origin != a.Self && !s.Whole {
		// Its contents are listed here, perhaps: then what is missing is not damage.
		if said, err := parseRef(st.Manifest); err == nil && said == *x.Of {
			_, err := whole(ctx, a.shelf(id, key), x.c)
			study = cas.Damaged(err) && !errors.Is(err, cas.ErrNotFound)
		}
	}
	if !study {
		return false, false, nil
	}
	if x.SOP == "" {
		if x.Kind != WrongManifest {
			return true, false, nil
		}
		_, err := a.listsOf(ctx, a.shelf(id, key), key, id, *x.Of)
		if err != nil && (ctx.Err() != nil || cas.Damaged(err)) {
			return !cas.Damaged(err), false, ctx.Err()
		}
		return true, err != nil, nil
	}
	// The study's list names an instance that the catalogue does not have so.
	if id.Origin == a.Self && s.Dirty || id.Origin != a.Self && !s.Whole {
		return false, false, nil // a new list is on its way
	}
	out, err := a.conflicting(id, x.Series, x.SOP)
	if err != nil || out {
		return false, false, err
	}
	return true, row == nil || row.Manifest.CID != x.c, nil
}

// differs says that a manifest is not that of the instance which the catalogue has.
func differs(m cas.InstanceManifest, uid string, row instance) bool {
	return m.UID != uid || m.Size != row.Size || !bytes.Equal(m.SHA256[:], row.SHA256) || m.Class != row.Class || m.TransferSyntax != row.TransferSyntax
}

// damageAfter lists records of a source in key order, beginning behind a key.
func (a *Archive) damageAfter(id sourceID, after []byte, most int) (list []suspect, err error) {
	prefix := id.key(tableDamage)
	err = a.db.View(func(txn *badger.Txn) error {
		list = nil
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		from := prefix
		if after != nil {
			from = append(slices.Clone(after), 0)
		}
		for it.Seek(from); it.Valid() && len(list) < most; it.Next() {
			x, ok, err := readDamage(it.Item(), len(prefix))
			if err != nil {
				return err
			}
			if ok {
				list = append(list, x)
			}
		}
		return nil
	})
	return list, err
}

func decodeRecord[T any](item *badger.Item) (v T, err error) {
	err = item.Value(func(b []byte) error { return cbor.Unmarshal(b, &v) })
	if err != nil {
		err = fmt.Errorf("catalogue record of table 0x%02x cannot be read: %w", item.Key()[0], err)
	}
	return v, err
}

func readDamage(item *badger.Item, prefix int) (x suspect, ok bool, err error) {
	if index.Purged(item) {
		return x, false, nil
	}
	if rest := item.Key()[prefix:]; len(rest) > 0 {
		if x.c, err = cas.ParseCID(rest); err != nil {
			return x, false, nil
		}
	}
	x.damage, err = decodeRecord[damage](item)
	return x, err == nil, err
}

// isNoted says whether a block, or with cid.Undef the key, is known as damaged.
func (a *Archive) isNoted(id sourceID, c cid.Cid) (bool, error) {
	if !a.damage.ill(id) {
		return false, nil
	}
	return a.hasRecord(id.damageKey(c))
}

// forgetDamage drops records: their blocks are whole again, or nothing leads to
// them any more.
func (a *Archive) forgetDamage(id sourceID, blocks ...cid.Cid) error {
	for len(blocks) > 0 {
		n := min(len(blocks), noteMost)
		dropped := 0
		err := a.update(func(txn *badger.Txn) error {
			dropped = 0
			for _, c := range blocks[:n] {
				k := id.damageKey(c)
				if noted, err := hasRecord(txn, k); err != nil {
					return err
				} else if !noted {
					continue
				}
				if err := txn.Delete(k); err != nil {
					return err
				}
				dropped++
			}
			return nil
		})
		if err != nil {
			return err
		}
		blocks = blocks[n:]
		if dropped > 0 {
			a.damage.mu.Lock()
			if e := a.damage.of[id]; e != nil {
				e.blocks = max(e.blocks-dropped, 0)
			}
			a.damage.mu.Unlock()
			a.grants.forget(id)
			a.news.tell(id.Study)
		}
	}
	return nil
}

// reading is a source's shelf for whoever reads what is here. Damage that he
// meets is noted and repaired while he waits.
type reading struct {
	cas.Shelf
	a     *Archive
	id    sourceID
	place damage // Series, SOP, Of
	here  bool   // the catalogue says that all of it is here
	wait  bool
	away  *away // not nil: what is not here is read where it is held
}

func (a *Archive) reading(id sourceID, k cas.Key, place damage, here, wait bool) cas.Getter {
	return reading{a.shelf(id, k), a, id, place, here, wait, nil}
}

// Mend implements cas.Mender.
func (r reading) Mend(ctx context.Context, c cid.Cid, broken error) ([]byte, error) {
	x := suspect{damage: r.place, c: c}
	x.Kind = kindOf(broken)
	if r.away != nil {
		return r.away.read(ctx, c)
	}
	if !r.here && x.Kind == MissingBlock {
		return nil, broken // nobody said that it was here
	}
	if _, err := r.a.note(ctx, r.id, x); err != nil {
		return nil, err
	}
	noted, err := r.a.isNoted(r.id, c)
	if err != nil {
		return nil, err
	}
	if noted {
		r.a.damage.look(r.id)
		if !r.wait {
			return nil, broken
		}
		if err := r.a.awaitRepair(ctx, r.id, c); err != nil {
			return nil, err
		}
	}
	data, err := whole(ctx, r.Shelf, c)
	if cas.Damaged(err) && r.wait && noted {
		err = &Unavailable{Reason: "the study is being stored anew here after damage; ask again shortly", RetryAfter: r.a.fetching().RetryMin}
	}
	return data, err
}

func kindOf(broken error) DamageKind {
	if errors.Is(broken, cas.ErrNotFound) {
		return MissingBlock
	}
	return DamagedBlock
}

// keyFor opens the key of a source that is here; if that is lost it is
// regained from a holder while the caller waits.
func (a *Archive) keyFor(ctx context.Context, id sourceID) (cas.Key, error) {
	key, err := a.Keys.Get(id.keyName())
	if err == nil || !keyDamaged(err) {
		return key, err
	}
	n, nerr := a.note(ctx, id, suspect{damage: damage{Kind: LostKey}})
	if nerr != nil {
		return key, nerr
	}
	if n == 0 {
		return key, err
	}
	if err := a.awaitRepair(ctx, id, cid.Undef); err != nil {
		return key, err
	}
	return a.Keys.Get(id.keyName())
}

// awaitRepair waits until a block, or the key, is no longer noted as damaged.
// Otherwise the error is *Unavailable.
func (a *Archive) awaitRepair(ctx context.Context, id sourceID, c cid.Cid) error {
	if a.running == nil {
		return &Unavailable{Reason: "the study is damaged here, and nothing is repaired while the node does not run"}
	}
	next, until := a.damage.urge(id)
	timer := time.NewTimer(a.fetching().ReadThrough)
	defer timer.Stop()
	for {
		changed := a.news.next(id.Study)
		ended, why, ill := a.damage.ended(id)
		noted, err := a.isNoted(id, c)
		if err != nil || !noted {
			return err
		}
		if now := a.Now(); ill && (ended >= until || next.After(now)) {
			if why == "" {
				why = "no attempt has ended yet"
			}
			return &Unavailable{
				Reason:     fmt.Sprintf("part of this study is damaged on this node's disk and could not be repaired yet: %s. It is tried again by itself; `priormesh status` lists it", why),
				RetryAfter: max(a.fetching().RetryMin, next.Sub(now)),
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.running.Done():
			return &Unavailable{Reason: "the node is stopping"}
		case <-changed:
		case <-timer.C:
			return &Unavailable{
				Reason:     fmt.Sprintf("part of this study is damaged on this node's disk; %s", a.repairText(id)),
				RetryAfter: a.fetching().RetryMin,
			}
		}
	}
}

// repairText says for people whether a damaged source can be repaired.
func (a *Archive) repairText(id sourceID) string {
	var names []string
	holders, err := a.Index.Holders(id.Study, id.Origin)
	if err != nil {
		return "who could repair it cannot be read from the index"
	}
	for _, h := range holders {
		if h.Node != a.Self && !slices.Contains(names, string(h.Trust)) {
			names = append(names, string(h.Trust))
		}
	}
	if len(names) == 0 {
		return "it cannot be repaired: no other trust has a copy; send it again from where it came"
	}
	return "it is being repaired from " + strings.Join(names, ", ") + ". Ask again shortly"
}

// restoring is a source's shelf for what is stored again: blocks that are there
// but damaged are replaced even where the store cannot tell.
type restoring struct {
	cas.Shelf
	a  *Archive
	id sourceID
}

// storing is the shelf for what is stored of an own source.
func (a *Archive) storing(id sourceID, k cas.Key) cas.Shelf {
	if a.damage.ill(id) {
		return restoring{a.shelf(id, k), a, id}
	}
	return a.shelf(id, k)
}

// Put implements cas.Putter.
func (r restoring) Put(ctx context.Context, blocks ...cas.Block) error {
	if err := r.Shelf.Put(ctx, blocks...); err != nil {
		return err
	}
	cids := make([]cid.Cid, len(blocks))
	for i, b := range blocks {
		cids[i] = b.CID
		if _, err := whole(ctx, r.Shelf, b.CID); cas.Damaged(err) {
			err = replace(ctx, r.Shelf, b)
			if err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	return r.a.forgetDamage(r.id, cids...)
}

// Damage is what is wrong with one version of a study.
type Damage struct {
	Study     string
	Origin    index.NodeID
	Kinds     []DamageKind
	Blocks    int // that are damaged or missing; of a lost key 0
	Instances int // that they are known to belong to
	Since     time.Time
	Tried     time.Time // to repair it; zero: not yet
	Why       string    // it is not repaired
}

// Damage lists the versions of studies with damage that is not repaired, most
// first in key order, and says how many there are.
func (a *Archive) Damage(most int) (list []Damage, sources int, err error) {
	a.damage.mu.Lock()
	none := len(a.damage.of) == 0
	a.damage.mu.Unlock()
	if none {
		return nil, 0, nil
	}
	err = a.db.View(func(txn *badger.Txn) error {
		list, sources = nil, 0
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableDamage}, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		var last sourceID
		sops := make(map[string]bool)
		for it.Rewind(); it.Valid(); it.Next() {
			id, rest, ok := parseSourceID(it.Item().Key())
			if !ok || index.Purged(it.Item()) {
				continue
			}
			if id != last {
				last = id
				sources++
				clear(sops)
				if sources <= most {
					list = append(list, Damage{Study: id.Study, Origin: id.Origin})
				}
			}
			if sources > most {
				continue
			}
			x, ok, err := readDamage(it.Item(), len(it.Item().Key())-len(rest))
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			e := &list[len(list)-1]
			e.add(x, !sops[x.SOP])
			sops[x.SOP] = true
		}
		return nil
	})
	return list, sources, err
}

func (e *Damage) add(x suspect, newInstance bool) {
	if !slices.Contains(e.Kinds, x.Kind) {
		e.Kinds = append(e.Kinds, x.Kind)
	}
	if x.Kind != LostKey {
		e.Blocks++
	}
	if x.SOP != "" && newInstance {
		e.Instances++
	}
	if at := time.UnixMilli(x.Found).UTC(); e.Since.IsZero() || at.Before(e.Since) {
		e.Since = at
	}
	if x.Tried != 0 {
		if at := time.UnixMilli(x.Tried).UTC(); at.After(e.Tried) {
			e.Tried = at
		}
	}
	if x.Why != "" {
		e.Why = x.Why
	}
}

// DamageCounts are for metrics.
type DamageCounts struct {
	Blocks         int    // damaged or missing and not repaired, lost keys included
	BytesVerified  uint64 // since the start
	BlocksRepaired uint64
	LastVerified   time.Time // when the scrub last got to the end; zero: never
}

// DamageCounts counts.
func (a *Archive) DamageCounts() DamageCounts {
	c := DamageCounts{BytesVerified: a.damage.read.Load(), BlocksRepaired: a.damage.repaired.Load()}
	a.damage.mu.Lock()
	for _, e := range a.damage.of {
		c.Blocks += e.blocks
	}
	a.damage.mu.Unlock()
	if p, err := a.scrubbed(); err == nil && p.Done != 0 {
		c.LastVerified = time.UnixMilli(p.Done).UTC()
	}
	return c
}

// damagedInstances are the instances of a source that cannot be given whole
// now. all says that none can.
func (a *Archive) damagedInstances(id sourceID) (some map[string]bool, all bool, err error) {
	if !a.damage.ill(id) {
		return nil, false, nil
	}
	some = make(map[string]bool)
	prefix := id.key(tableDamage)
	err = a.db.View(func(txn *badger.Txn) error {
		all = false
		clear(some)
		it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 100})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			x, ok, err := readDamage(it.Item(), len(prefix))
			if err != nil {
				return err
			}
			if ok && x.Kind == LostKey {
				all = true
			} else if ok && x.SOP != "" {
				some[x.SOP] = true
			}
		}
		return nil
	})
	return some, all, err
}

// lostKeys says whether the key of any source in the catalogue is missing or
// cannot be opened. Holders may still give it back.
func (a *Archive) lostKeys(ctx context.Context) (bool, error) {
	lost := false
	var after []byte
	for !lost {
		var ids []sourceID
		err := a.db.View(func(txn *badger.Txn) error {
			ids = nil
			it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableSource}})
			defer it.Close()
			from := []byte{tableSource}
			if after != nil {
				from = append(slices.Clone(after), 0)
			}
			for it.Seek(from); it.Valid() && len(ids) < sourcesAtOnce; it.Next() {
				if id, _, ok := parseSourceID(it.Item().Key()); ok && !index.Purged(it.Item()) {
					ids = append(ids, id)
				}
			}
			return nil
		})
		if err != nil || len(ids) == 0 {
			return lost, err
		}
		for _, id := range ids {
			if _, err := a.Keys.Get(id.keyName()); keyDamaged(err) {
				return true, nil
			} else if err != nil {
				return false, err
			}
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
		}
		after = ids[len(ids)-1].key(tableSource)
	}
	return lost, nil
}
