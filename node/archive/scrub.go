package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"
	"golang.org/x/time/rate"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

const (
	sourcesAtOnce = 256                    // looked up together
	progressEvery = 250 * time.Millisecond // at most so often is progress told
	positionEvery = 10 * time.Second       // at most so often the scrub's position is written
	scrubRetry    = 10 * time.Minute       // after a round that had to be given up
	maxVerified   = 10_000                 // studies listed in one report
)

// ErrVerifying says that a verification is under way already.
var ErrVerifying = errors.New("a verification is under way already; wait for its end, or break it off")

// VerifyOptions say what to verify and how fast.
type VerifyOptions struct {
	Rate  int64  // bytes a second read from the store; 0: as fast as it goes
	Study string // only this one
	// Progress is told how far it is, a few times a second at most. It must not
	// block for long.
	Progress func(VerifyProgress)

	limit limiter // of tests
}

// limiter is what slows a verification down: *rate.Limiter.
type limiter interface {
	WaitN(context.Context, int) error
}

// VerifyProgress is how far a verification is.
type VerifyProgress struct {
	Studies, StudiesDone int // versions of studies
	Bytes, BytesDone     int64
	Damaged              int // blocks and keys found so far
	Repaired             int
	Repairing            bool // all is read; what was found is being repaired
}

// VerifyReport is what a verification found.
type VerifyReport struct {
	Studies, Instances, Blocks int
	Bytes                      int64 // sealed
	Found                      []Verified
	MoreFound                  int  // damaged versions of studies beyond those listed
	Left                       int  // damaged versions of studies that are not repaired
	CanRepair                  bool // the node runs: what is left is tried again by itself
	Lost                       int  // studies that were received here and are gone since a restore, wholly or in part
	Recovered                  int  // instances that the catalogue had lost, stored again from their blocks
}

// Verified is one version of a study in which damage was found.
type Verified struct {
	Damage       // as it was found
	Repaired int // blocks and keys
	From     []index.TrustID
	Left     *Damage // what is still not repaired
}

// Verify reads everything that is here and compares it with its addresses and
// with the catalogue. One damaged block does not stop it. What is damaged is
// quarantined, and, if the node runs, repaired before Verify returns as far as
// those who hold copies can be reached.
func (a *Archive) Verify(ctx context.Context, o VerifyOptions) (VerifyReport, error) {
	if !a.damage.verifying.TryLock() {
		return VerifyReport{}, ErrVerifying
	}
	defer a.damage.verifying.Unlock()
	v := a.newVerification(o)
	a.damage.follow(v)
	defer a.damage.unfollow(v)
	if err := a.checkIndex(); err != nil {
		return VerifyReport{}, err
	}
	if o.Study == "" && a.stop != nil { // the node runs
		n, err := a.RecoverLost(ctx)
		if err != nil {
			return VerifyReport{}, err
		}
		v.report.Recovered = n
	}
	if err := v.total(); err != nil {
		return VerifyReport{}, err
	}
	if o.Study != "" && v.progress.Studies == 0 {
		return VerifyReport{}, ErrNotFound
	}
	if err := v.walk(ctx, nil, nil); err != nil {
		return v.result(), err
	}
	if err := v.awaitRepairs(ctx); err != nil {
		return v.result(), err
	}
	if o.Study == "" {
		var err error
		if _, v.report.Lost, _, err = a.countLost(); err != nil {
			return v.result(), err
		}
	}
	return v.finish()
}

// verification is one walk over what is here.
type verification struct {
	a     *Archive
	o     VerifyOptions
	limit limiter

	mu       sync.Mutex
	progress VerifyProgress
	report   VerifyReport
	found    map[sourceID]*finding
	order    []sourceID
	told     time.Time
}

// finding is a source in which damage was found.
type finding struct {
	Verified
	until int              // attempts that must have ended
	seen  map[cid.Cid]bool // blocks that instances share count once
}

func (a *Archive) newVerification(o VerifyOptions) *verification {
	v := &verification{a: a, o: o, limit: o.limit, found: make(map[sourceID]*finding)}
	if v.limit == nil {
		v.limit = rate.NewLimiter(rate.Inf, cas.MaxBlock)
		if o.Rate > 0 {
			v.limit = rate.NewLimiter(rate.Limit(o.Rate), cas.MaxBlock)
		}
	}
	v.report.CanRepair = a.running != nil
	return v
}

func (d *damages) follow(v *verification) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.runs[v] = struct{}{}
}

func (d *damages) unfollow(v *verification) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.runs, v)
}

// total finds out how much there is to do.
func (v *verification) total() error {
	prefix := []byte{tableSource}
	if v.o.Study != "" {
		prefix = append(append(prefix, v.o.Study...), 0)
	}
	return v.a.db.View(func(txn *badger.Txn) error {
		v.progress.Studies, v.progress.Bytes = 0, 0
		return eachRecord(txn, prefix, func(k []byte, s source) error {
			if id, _, ok := parseSourceID(k); !ok || v.a.sibling(id.Origin) {
				return nil // whose blocks another node of this trust verifies
			}
			v.progress.Studies++
			v.progress.Bytes += s.Bytes
			return nil
		})
	})
}

// walk verifies the sources behind a key of the catalogue, in key order. at is
// told of each that is done.
func (v *verification) walk(ctx context.Context, after []byte, at func(key []byte) error) error {
	prefix := []byte{tableSource}
	if v.o.Study != "" {
		prefix = append(append(prefix, v.o.Study...), 0)
	}
	for {
		type next struct {
			id    sourceID
			bytes int64
		}
		var list []next
		err := v.a.db.View(func(txn *badger.Txn) error {
			list = nil
			it := txn.NewIterator(badger.IteratorOptions{Prefix: prefix, PrefetchValues: true, PrefetchSize: 100})
			defer it.Close()
			from := prefix
			if after != nil {
				from = append(append([]byte{}, after...), 0)
			}
			for it.Seek(from); it.Valid() && len(list) < sourcesAtOnce; it.Next() {
				id, _, ok := parseSourceID(it.Item().Key())
				if !ok || index.Purged(it.Item()) || v.a.sibling(id.Origin) {
					continue
				}
				s, err := decodeRecord[source](it.Item())
				if err != nil {
					return err
				}
				list = append(list, next{id, s.Bytes})
			}
			return nil
		})
		if err != nil || len(list) == 0 {
			return err
		}
		for _, x := range list {
			began := v.progress.BytesDone
			if err := v.source(ctx, x.id); err != nil {
				return err
			}
			v.mu.Lock()
			v.report.Studies++
			v.progress.StudiesDone++
			v.progress.BytesDone = began + x.bytes // whatever part of it could be read
			v.mu.Unlock()
			v.tell(false)
			after = x.id.key(tableSource)
			if at != nil {
				if err := at(after); err != nil {
					return err
				}
			}
		}
	}
}

func (v *verification) tell(always bool) {
	if v.o.Progress == nil {
		return
	}
	now := v.a.Now()
	v.mu.Lock()
	if since := now.Sub(v.told); !always && since >= 0 && since < progressEvery {
		v.mu.Unlock()
		return
	}
	v.told = now
	p := v.progress
	v.mu.Unlock()
	v.o.Progress(p)
}

// checked is a shelf that verifies what it gives, at the verification's pace,
// and remembers what was wrong.
type checked struct {
	v     *verification
	shelf cas.Shelf
	bad   []suspect
	fatal error // no damage: the store cannot be read at all
}

// Get implements cas.Getter.
func (c *checked) Get(ctx context.Context, at cid.Cid) ([]byte, error) {
	data, err := whole(ctx, c.shelf, at)
	if err != nil && !cas.Damaged(err) {
		c.fatal = err
		return nil, err
	}
	c.v.a.damage.read.Add(uint64(len(data)))
	c.v.mu.Lock()
	c.v.report.Blocks++
	c.v.report.Bytes += int64(len(data))
	c.v.mu.Unlock()
	if n := min(len(data), cas.MaxBlock); n > 0 { // more is read later instead
		if werr := c.v.limit.WaitN(ctx, n); werr != nil {
			if ctx.Err() != nil {
				werr = ctx.Err()
			}
			c.fatal = werr
			return nil, werr
		}
	}
	if err != nil {
		c.bad = append(c.bad, suspect{c: at, damage: damage{Kind: kindOf(err)}})
		return nil, err
	}
	return data, nil
}

// take returns what was wrong since it was asked last.
func (c *checked) take(place damage) []suspect {
	list := c.bad
	c.bad = nil
	for i := range list {
		list[i].Series, list[i].SOP, list[i].Of = place.Series, place.SOP, place.Of
	}
	return list
}

// rest looks at the other blocks of an object of which one is damaged.
func (c *checked) rest(ctx context.Context, r cas.Ref, key cas.Key) {
	if len(c.bad) == 0 || c.fatal != nil {
		return
	}
	met := c.bad[0].c
	before := len(c.bad)
	blocks, err := r.Blocks(ctx, c, key)
	c.bad = c.bad[:before]
	if err != nil {
		return
	}
	for _, b := range blocks[1:] {
		if b != met {
			_, _ = c.Get(ctx, b) // c remembers
		}
	}
}

// source verifies one version of a study.
func (v *verification) source(ctx context.Context, id sourceID) error {
	a := v.a
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := a.source(id)
	if errors.Is(err, errNoRecord) {
		return nil // gone meanwhile
	}
	if err != nil {
		return err
	}
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		if !keyDamaged(err) {
			return fmt.Errorf("the study keys cannot be read: %w", err)
		}
		return v.note(ctx, id, suspect{damage: damage{Kind: LostKey}})
	}
	c := &checked{v: v, shelf: a.shelf(id, key)}
	var wrong []suspect
	listed := make(map[string]cas.Ref) // what the study's lists name
	if s.Manifest != nil {
		if wrong, listed, err = v.lists(ctx, c, key, id, *s.Manifest); err != nil {
			return err
		}
	}
	if err := v.note(ctx, id, wrong...); err != nil {
		return err
	}
	rows, err := a.instancesOf(id)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := v.instance(ctx, c, key, id, row); err != nil {
			return err
		}
		name := row.Series + "\x00" + row.SOP
		if listed[name] == row.Manifest {
			delete(listed, name)
		}
	}
	wrong = nil
	for name, ref := range listed {
		series, uid := cutName(name)
		wrong = append(wrong, suspect{c: ref.CID, damage: damage{Kind: WrongManifest, Series: series, SOP: uid, Of: s.Manifest}})
	}
	return v.note(ctx, id, wrong...)
}

// lists verifies the manifests of a study and its series.
func (v *verification) lists(ctx context.Context, c *checked, key cas.Key, id sourceID, ref cas.Ref) (wrong []suspect, listed map[string]cas.Ref, err error) {
	listed = make(map[string]cas.Ref)
	place := damage{Of: &ref}
	study, err := cas.LoadStudy(ctx, c, key, ref)
	c.rest(ctx, ref, key)
	wrong = append(wrong, c.take(place)...)
	if c.fatal != nil {
		return nil, nil, c.fatal
	}
	if err == nil && study.UID != id.Study || err != nil && len(wrong) == 0 {
		wrong = append(wrong, suspect{c: ref.CID, damage: damage{Kind: WrongManifest, Of: &ref}})
	}
	if err != nil {
		return wrong, listed, nil
	}
	for _, se := range study.Series {
		place.Series = se.UID
		m, err := cas.LoadSeries(ctx, c, key, se.Manifest)
		c.rest(ctx, se.Manifest, key)
		bad := c.take(place)
		wrong = append(wrong, bad...)
		if c.fatal != nil {
			return nil, nil, c.fatal
		}
		if err == nil && m.UID != se.UID || err != nil && len(bad) == 0 {
			wrong = append(wrong, suspect{c: se.Manifest.CID, damage: damage{Kind: WrongManifest, Series: se.UID, Of: &ref}})
		}
		if err == nil {
			for _, e := range m.Instances {
				listed[se.UID+"\x00"+e.UID] = e.Manifest
			}
		}
	}
	return wrong, listed, nil
}

// listsOf reads the manifests of a study and its series, and says what is wrong
// with what they say.
func (a *Archive) listsOf(ctx context.Context, g cas.Getter, key cas.Key, id sourceID, ref cas.Ref) (cas.StudyManifest, error) {
	study, err := cas.LoadStudy(ctx, g, key, ref)
	if err != nil {
		return study, err
	}
	if study.UID != id.Study {
		return study, errors.New("the manifest is another study's")
	}
	for _, se := range study.Series {
		m, err := cas.LoadSeries(ctx, g, key, se.Manifest)
		if err != nil {
			return study, err
		}
		if m.UID != se.UID {
			return study, errors.New("a manifest is another series'")
		}
	}
	return study, nil
}

// instance verifies the manifest and all blocks of one instance.
func (v *verification) instance(ctx context.Context, c *checked, key cas.Key, id sourceID, row catalogued) error {
	ref := row.Manifest
	place := damage{Series: row.Series, SOP: row.SOP, Of: &ref}
	m, err := cas.LoadInstance(ctx, c, key, ref)
	c.rest(ctx, ref, key)
	if c.fatal != nil {
		return c.fatal
	}
	switch {
	case err != nil && len(c.bad) == 0, err == nil && differs(m, row.SOP, row.instance):
		x := suspect{c: ref.CID, damage: place}
		x.Kind = WrongManifest
		if err := v.note(ctx, id, x); err != nil {
			return err
		}
	case err == nil:
		for _, b := range m.Blocks {
			_, _ = c.Get(ctx, b.CID) // c remembers
			if c.fatal != nil {
				return c.fatal
			}
			v.mu.Lock()
			v.progress.BytesDone += b.Len
			v.mu.Unlock()
			v.tell(false)
		}
	}
	v.mu.Lock()
	v.report.Instances++
	v.mu.Unlock()
	return v.note(ctx, id, c.take(place)...)
}

// note has damage recorded and remembers it for the report.
func (v *verification) note(ctx context.Context, id sourceID, list ...suspect) error {
	if len(list) == 0 {
		return nil
	}
	now := v.a.Now().UnixMilli()
	for i := range list {
		list[i].Found = now
	}
	real, until, err := v.a.noteAll(ctx, id, list)
	if err != nil || len(real) == 0 {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.found[id]
	if f == nil {
		f = &finding{Verified: Verified{Damage: Damage{Study: id.Study, Origin: id.Origin}}, seen: make(map[cid.Cid]bool)}
		v.found[id] = f
		v.order = append(v.order, id)
	}
	f.until = until
	sops := make(map[string]bool) // a call is about one instance
	for _, x := range real {
		f.Damage.add(x, !sops[x.SOP])
		sops[x.SOP] = true
		switch {
		case !f.seen[x.c]:
			f.seen[x.c] = true
			v.progress.Damaged++
		case x.Kind != LostKey:
			f.Blocks--
		}
	}
	return nil
}

// mended is told of repairs. The caller holds the lock of damages.
func (v *verification) mended(id sourceID, n int, from index.TrustID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f := v.found[id]
	if f == nil {
		return
	}
	v.progress.Repaired += n
	f.Repaired += n
	for _, t := range f.From {
		if t == from {
			return
		}
	}
	if from != "" {
		f.From = append(f.From, from)
	}
}

// awaitRepairs waits until all that was found has been repaired, or tried.
func (v *verification) awaitRepairs(ctx context.Context) error {
	a := v.a
	if a.running == nil || len(v.order) == 0 {
		v.tell(true)
		return nil
	}
	v.mu.Lock()
	v.progress.Repairing = true
	v.mu.Unlock()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for _, id := range v.order {
		a.damage.due(id.Study)
		for {
			changed := a.news.next(id.Study)
			ended, _, ill := a.damage.ended(id)
			// What is repaired may show further damage, which follows at once.
			if !ill || ended >= v.found[id].until && a.damage.rests(id) {
				break
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-a.running.Done():
				return errors.New("the node is stopping; what was found is repaired when it runs again")
			case <-changed:
			case <-tick.C:
				v.tell(false)
			}
		}
	}
	v.tell(true)
	return nil
}

// finish looks at what is left of what was found.
func (v *verification) finish() (VerifyReport, error) {
	for _, id := range v.order {
		left, err := v.a.damageOf(id)
		if err != nil {
			return v.result(), err
		}
		if left.Since.IsZero() {
			continue
		}
		v.mu.Lock()
		v.report.Left++
		v.found[id].Left = &left
		v.mu.Unlock()
	}
	return v.result(), nil
}

func (v *verification) result() VerifyReport {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.report
	r.Found = nil
	for _, id := range v.order {
		if len(r.Found) == maxVerified {
			r.MoreFound = len(v.order) - maxVerified
			break
		}
		r.Found = append(r.Found, v.found[id].Verified)
	}
	return r
}

// position is how far the scrub is. It names no study: one that is erased must
// be named nowhere.
type position struct {
	After []byte `cbor:"1,keyasint,omitempty"` // SHA-256 of the catalogue key of the last source that was verified in this round
	Began int64  `cbor:"2,keyasint"`           // Unix ms
	Done  int64  `cbor:"3,keyasint"`           // when a round last came to its end
}

func (a *Archive) scrubbed() (p position, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		p, err = getRecord[position](txn, []byte{tableScrub})
		if errors.Is(err, errNoRecord) {
			return nil
		}
		return err
	})
	return p, err
}

func (a *Archive) saveScrubbed(p position) error {
	return a.update(func(txn *badger.Txn) error { return putRecord(txn, []byte{tableScrub}, p) })
}

// scrub verifies everything in the background, round after round, and goes on
// where a stop broke it off.
func (a *Archive) scrub(ctx context.Context) {
	for ctx.Err() == nil {
		wait, err := a.scrubRound(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			a.Log.Error("the background verification was broken off; it goes on later", "in", scrubRetry, "error", err)
			wait = scrubRetry
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// scrubRound runs a round if one is due, and says when to come back.
func (a *Archive) scrubRound(ctx context.Context) (time.Duration, error) {
	p, err := a.scrubbed()
	if err != nil {
		return 0, err
	}
	now := a.Now()
	if p.Began == 0 {
		if due := time.UnixMilli(p.Done).Add(a.ScrubEvery); p.Done != 0 && due.After(now) {
			return due.Sub(now), nil
		}
		p.Began, p.After = now.UnixMilli(), nil
		if err := a.saveScrubbed(p); err != nil {
			return 0, err
		}
	}
	if err := a.checkIndex(); err != nil {
		return 0, err
	}
	if _, err := a.RecoverLost(ctx); err != nil {
		return 0, err
	}
	v := a.newVerification(VerifyOptions{Rate: a.ScrubRate, limit: a.scrubLimit})
	saved := now
	after, err := a.sourceHashed(p.After)
	if err != nil {
		return 0, err
	}
	err = v.walk(ctx, after, func(key []byte) error {
		h := sha256.Sum256(key)
		p.After = h[:]
		if now := a.Now(); now.Sub(saved) >= positionEvery {
			saved = now
			return a.saveScrubbed(p)
		}
		return nil
	})
	if err != nil {
		return 0, errors.Join(err, a.saveScrubbed(p))
	}
	took := a.Now().Sub(time.UnixMilli(p.Began))
	if err := a.sweepDamage(ctx); err != nil {
		return 0, err
	}
	r := v.result()
	a.Log.Info("everything here has been verified", "studies", r.Studies, "bytes", r.Bytes, "damaged_studies", len(r.Found)+r.MoreFound, "took", took.Round(time.Second))
	p = position{Done: a.Now().UnixMilli()}
	return a.ScrubEvery, a.saveScrubbed(p)
}

// sourceHashed finds the catalogue key of a source by its hash; nil if there is
// none such (any more).
func (a *Archive) sourceHashed(hash []byte) (key []byte, err error) {
	if len(hash) == 0 {
		return nil, nil
	}
	err = a.db.View(func(txn *badger.Txn) error {
		key = nil
		it := txn.NewIterator(badger.IteratorOptions{Prefix: []byte{tableSource}})
		defer it.Close()
		for it.Rewind(); it.Valid() && key == nil; it.Next() {
			if h := sha256.Sum256(it.Item().Key()); bytes.Equal(h[:], hash) {
				key = it.Item().KeyCopy(nil)
			}
		}
		return nil
	})
	return key, err
}

// sweepDamage has every source with damage looked at again, so that records of
// what was erased or evicted go.
func (a *Archive) sweepDamage(ctx context.Context) error {
	a.damage.mu.Lock()
	ids := make([]sourceID, 0, len(a.damage.of))
	for id := range a.damage.of {
		ids = append(ids, id)
	}
	a.damage.mu.Unlock()
	for _, id := range ids {
		if err := a.pruneDamage(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func cutName(name string) (series, uid string) {
	for i := range len(name) {
		if name[i] == 0 {
			return name[:i], name[i+1:]
		}
	}
	return name, ""
}
