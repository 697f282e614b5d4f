package archive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// Limits of one repair.
const (
	repairMost    = 512 // records dealt with together
	repairHolders = 8   // asked for one source
	repairPasses  = 16  // a repaired manifest may show further damage
)

// mend repairs sources with damage, one after the other, until ctx ends.
func (a *Archive) mend(ctx context.Context) {
	for {
		id, err := a.damage.take(ctx)
		if err != nil {
			return
		}
		r := &repair{a: a, ctx: ctx, id: id}
		err = r.run()
		r.close()
		left, cerr := a.countDamage(id)
		if err = errors.Join(err, cerr); err != nil && ctx.Err() == nil && !a.erase.under(id) {
			a.Log.Error("a repair could not be carried out; it is tried again", "study", short(id.Study), "error", err)
			r.why = err.Error()
		}
		again, look := a.damage.done(id, left, r.mended > 0, r.why)
		switch {
		case r.mended > 0 && left == 0:
			a.Log.Info("a damaged study is repaired", "study", short(id.Study), "blocks", r.mended)
		case left > 0 && !again && ctx.Err() == nil:
			a.Log.Warn("a damaged study could not be repaired yet", "study", short(id.Study), "repaired", r.mended, "left", left, "why", r.why)
		}
		if look {
			if err := a.newVerification(VerifyOptions{Rate: a.ScrubRate}).source(ctx, id); err != nil && ctx.Err() == nil {
				a.Log.Error("a study of which a block could not be given could not be verified", "study", short(id.Study), "error", err)
			}
		}
	}
}

// repair is one attempt at one source.
type repair struct {
	a   *Archive
	ctx context.Context
	id  sourceID

	streams []*mesh.StudyStream
	opened  bool
	refused error // why nobody, or not everybody, gave a grant

	mended int
	why    string // something is left
}

func (r *repair) close() { closeAll(r.streams) }

func (r *repair) run() error {
	for range repairPasses {
		before := r.mended
		left, err := r.pass()
		if err != nil || left == 0 || r.mended == before {
			return err
		}
	}
	return nil
}

// pass goes through all records once and says how many it left.
func (r *repair) pass() (left int, err error) {
	a := r.a
	done, err := a.writing(r.ctx, r.id) // nothing is swept or evicted meanwhile
	if err != nil {
		r.why = err.Error()
		return 0, err
	}
	defer done()
	defer func(ctx context.Context) { r.ctx = ctx }(r.ctx)
	var end func()
	r.ctx, end = a.erase.attend(r.ctx, r.id)
	defer end()
	var after []byte
	lists := false
	for {
		chunk, err := a.damageAfter(r.id, after, repairMost)
		if err != nil {
			return left, err
		}
		if len(chunk) == 0 {
			break
		}
		after = r.id.damageKey(chunk[len(chunk)-1].c)
		if chunk, err = r.stillDamage(chunk); err != nil {
			return left, err
		}
		var blocks []suspect
		for _, x := range chunk {
			switch {
			case x.Kind == LostKey:
				from, err := r.regainKey()
				if err != nil {
					return left, err
				}
				if from == nil {
					// Without the key nothing else can be judged.
					return left + 1, r.stays(x)
				}
				if err := r.is(x, from.Holder()); err != nil {
					return left, err
				}
				// Nobody could look at what it opens until now.
				return left, a.newVerification(VerifyOptions{Rate: a.ScrubRate}).source(r.ctx, r.id)
			case r.id.Origin == a.Self && x.SOP == "":
				lists = true // the catalogue has all that a study's own lists say
			default:
				lists = lists || x.Kind == WrongManifest && x.Of != nil && x.Of.CID != x.c
				blocks = append(blocks, x)
			}
		}
		n, err := r.fetch(blocks)
		if err != nil {
			return left, err
		}
		left += n
	}
	if lists {
		return left, r.newLists()
	}
	return left, nil
}

// stillDamage drops the records of what is whole again or of no consequence.
func (r *repair) stillDamage(list []suspect) (still []suspect, err error) {
	a := r.a
	l := a.lock(r.id.Study)
	l.Lock()
	defer l.Unlock()
	var over []cid.Cid
	for _, x := range list {
		is, err := a.isDamage(r.ctx, r.id, x)
		if err != nil {
			return nil, err
		}
		if is {
			still = append(still, x)
			continue
		}
		lost, err := a.sealedAway(r.id, x)
		if err != nil {
			return nil, err
		}
		if !lost {
			over = append(over, x.c)
		}
	}
	return still, a.forgetDamage(r.id, over...)
}

// sealedAway says of a record that it cannot be judged because the key is lost.
func (a *Archive) sealedAway(id sourceID, x suspect) (bool, error) {
	if x.Kind == LostKey {
		return false, nil
	}
	if _, err := a.source(id); errors.Is(err, errNoRecord) {
		return false, nil
	}
	_, err := a.Keys.Get(id.keyName())
	if err == nil || keyDamaged(err) {
		return err != nil, nil
	}
	return false, err
}

// pruneDamage drops the records of a source that no longer apply.
func (a *Archive) pruneDamage(ctx context.Context, id sourceID) error {
	r := &repair{a: a, ctx: ctx, id: id}
	var after []byte
	for {
		chunk, err := a.damageAfter(id, after, repairMost)
		if err != nil || len(chunk) == 0 {
			return err
		}
		after = id.damageKey(chunk[len(chunk)-1].c)
		if _, err := r.stillDamage(chunk); err != nil {
			return err
		}
	}
}

// is says that something is repaired.
func (r *repair) is(x suspect, from index.NodeID) error {
	if err := r.a.forgetDamage(r.id, x.c); err != nil {
		return err
	}
	trust, _ := r.a.Index.TrustOf(from)
	r.mended++
	r.a.damage.mended(r.id, 1, trust)
	return nil
}

// stays notes why something could not be repaired.
func (r *repair) stays(list ...suspect) error {
	if r.why == "" {
		r.why = "the holders of copies do not have these blocks either"
		if r.refused != nil {
			r.why = r.refused.Error()
		}
	}
	if len(r.why) > whyMost {
		r.why = r.why[:whyMost] + "…"
	}
	now := r.a.Now().UnixMilli()
	for len(list) > 0 {
		n := min(len(list), noteMost)
		if err := r.a.update(func(txn *badger.Txn) error {
			for _, x := range list[:n] {
				k := r.id.damageKey(x.c)
				if noted, err := hasRecord(txn, k); err != nil {
					return err
				} else if !noted {
					continue
				}
				x.Tried, x.Why = now, r.why
				if err := putRecord(txn, k, x.damage); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// open asks those who hold any revision of the source for a grant, all at once:
// the same bytes under the same key have the same address in each.
func (r *repair) open() {
	if r.opened {
		return
	}
	r.opened = true
	a := r.a
	connected := make(map[index.NodeID]bool)
	for _, p := range a.transfers.Peers() {
		connected[p.ID] = p.Connected
	}
	var holders []index.NodeID
	known, err := a.Index.Holders(r.id.Study, r.id.Origin)
	if err != nil {
		r.refused = err
		return
	}
	for _, h := range known {
		if h.Node != a.Self {
			holders = append(holders, h.Node)
		}
	}
	if len(holders) == 0 {
		r.refused = errors.New("no other trust holds a copy")
		if r.id.Origin == a.Self {
			r.refused = errors.New("no other trust holds a copy; send the study here again from where it came, or restore a backup")
		}
		return
	}
	slices.SortStableFunc(holders, func(x, y index.NodeID) int {
		switch {
		case connected[x] == connected[y]:
			return 0
		case connected[x]:
			return -1
		}
		return 1
	})
	holders = holders[:min(len(holders), repairHolders)]
	streams, errs := make([]*mesh.StudyStream, len(holders)), make([]error, len(holders))
	var wg sync.WaitGroup
	for i, h := range holders {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(r.ctx, openTimeout)
			defer cancel()
			var err error
			if streams[i], err = a.transfers.OpenStudy(ctx, h, mesh.StudyRequest{Study: r.id.Study, Origin: r.id.Origin, Purpose: string(access.DirectCare), Priority: Interactive.onLine()}); err != nil {
				streams[i], errs[i] = nil, a.explain(h, err)
			}
		})
	}
	wg.Wait()
	for _, s := range streams {
		if s != nil {
			r.streams = append(r.streams, s)
		}
	}
	r.refused = errors.Join(errs...)
}

// fetch brings good blocks in place of damaged ones, and says how many it could
// not.
func (r *repair) fetch(list []suspect) (left int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	a := r.a
	r.open()
	key, err := a.Keys.Get(r.id.keyName())
	if err != nil {
		return len(list), err
	}
	shelf := a.shelf(r.id, key)
	todo := make(map[cid.Cid]suspect, len(list))
	for _, x := range list {
		if x.Kind != WrongManifest {
			todo[x.c] = x
		}
	}
	var repaired []suspect
	var foreign []*mesh.StudyStream
	for _, s := range r.streams {
		if len(todo) == 0 {
			break
		}
		if s.Grant().Key != key {
			foreign = append(foreign, s)
			continue
		}
		var want []cid.Cid
		for _, x := range list {
			if _, ok := todo[x.c]; ok {
				want = append(want, x.c)
			}
		}
		before := r.mended
		_, err := a.transfers.FetchBlocks(r.ctx, []*mesh.StudyStream{s}, want, func(b cas.Block) error {
			x, ok := todo[b.CID]
			if !ok {
				return nil
			}
			if err := replace(r.ctx, shelf, b); err != nil {
				return &storeError{err}
			}
			delete(todo, b.CID)
			repaired = append(repaired, x)
			return r.is(x, s.Holder())
		})
		var mine *storeError
		if errors.As(err, &mine) || r.ctx.Err() != nil {
			return len(todo), err
		}
		if err != nil {
			r.refused = errors.Join(r.refused, a.explain(s.Holder(), err))
		}
		if err := r.audit(s, r.mended-before); err != nil {
			return len(todo), err
		}
	}
	if len(todo) > 0 && r.id.Origin == a.Self {
		for _, s := range foreign {
			if err := r.resend(s, todo); err != nil {
				return len(todo), err
			}
		}
	}
	if err := r.lookInto(repaired, key); err != nil {
		return len(todo), err
	}
	var stay []suspect
	for _, x := range list {
		if _, ok := todo[x.c]; ok || x.Kind == WrongManifest {
			stay = append(stay, x)
		}
	}
	return len(stay), r.stays(stay...)
}

// storeError is this node's own: another holder would not help.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

func (r *repair) audit(s *mesh.StudyStream, blocks int) error {
	if blocks == 0 {
		return nil
	}
	trust, _ := r.a.Index.TrustOf(s.Holder())
	return r.a.Audit.Append(audit.Event{Event: "repair.done", Node: s.Holder().String(), Trust: string(trust), Study: short(r.id.Study),
		Purpose: s.Grant().Purpose, Detail: fmt.Sprintf("%d blocks or keys", blocks)})
}

// lookInto verifies the lists and instances of which something has just been
// repaired: what a damaged manifest names nobody could look at.
func (r *repair) lookInto(list []suspect, key cas.Key) error {
	a := r.a
	v := a.newVerification(VerifyOptions{})
	c := &checked{v: v, shelf: a.shelf(r.id, key)}
	done := make(map[string]bool)
	for _, x := range list {
		if x.Of == nil || done[x.SOP] {
			continue
		}
		done[x.SOP] = true
		if x.SOP == "" {
			wrong, _, err := v.lists(r.ctx, c, key, r.id, *x.Of)
			if err == nil {
				err = v.note(r.ctx, r.id, wrong...)
			}
			if err != nil {
				return err
			}
			continue
		}
		rec, err := a.instanceOf(r.id, x.Series, x.SOP)
		if errors.Is(err, errNoRecord) {
			continue
		}
		if err == nil {
			err = v.instance(r.ctx, c, key, r.id, catalogued{Series: x.Series, SOP: x.SOP, instance: rec})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newLists has the lists of an own study written anew; those of a copy come
// with the study, which is brought again as far as it is not here.
func (r *repair) newLists() error {
	a := r.a
	if r.id.Origin != a.Self {
		list, err := a.damageAfter(r.id, nil, repairMost)
		if err != nil || !slices.ContainsFunc(list, func(x suspect) bool { return x.Kind == WrongManifest }) {
			return err
		}
		l := a.lock(r.id.Study)
		l.Lock()
		err = a.updateSource(r.id, func(_ *badger.Txn, s *source) error { s.Whole = false; return nil })
		l.Unlock()
		if err != nil {
			return err
		}
		err = a.Enqueue(r.id.Study, Background, "what is here contradicts its list", "")
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		return err
	}
	l := a.lock(r.id.Study)
	l.Lock()
	err := a.updateSource(r.id, func(_ *badger.Txn, s *source) error { s.Dirty = true; return nil })
	l.Unlock()
	if err != nil {
		return err
	}
	if _, err := a.publish(r.ctx, r.id.Study); err != nil {
		a.pub.touch(r.id.Study)
		return err
	}
	// The old lists are nobody's concern any more.
	before, err := a.countDamage(r.id)
	if err != nil {
		return err
	}
	if err := a.pruneDamage(r.ctx, r.id); err != nil {
		return err
	}
	after, err := a.countDamage(r.id)
	if n := before - after; n > 0 {
		r.mended += n
		a.damage.mended(r.id, n, "")
	}
	return err
}

// regainKey asks holders for the study key, and believes none that does not
// open what the catalogue says was sealed with it.
func (r *repair) regainKey() (from *mesh.StudyStream, err error) {
	a := r.a
	r.open()
	for _, s := range r.streams {
		g := s.Grant()
		if !r.proves(s, g.Key) {
			r.refused = errors.Join(r.refused, a.explain(s.Holder(), errors.New("the key it gave does not open what is stored here")))
			continue
		}
		ok, err := r.addKey(g.Key)
		if err != nil || !ok {
			return nil, err
		}
		return s, r.audit(s, 1)
	}
	return nil, r.ctx.Err()
}

func (r *repair) addKey(key cas.Key) (bool, error) {
	a := r.a
	l := a.lock(r.id.Study)
	l.Lock()
	defer l.Unlock()
	// It may have been erased meanwhile: then the key must not come back.
	is, err := a.isDamage(r.ctx, r.id, suspect{damage: damage{Kind: LostKey}})
	if err != nil || !is {
		return false, err
	}
	name := r.id.keyName()
	if err := a.Keys.SetAside(name); err != nil {
		if err := a.Keys.Delete(name); err != nil { // not even its bytes can be read
			return false, err
		}
	}
	return true, a.Keys.Add(name, key)
}

// proves says whether a key opens a manifest that the catalogue names.
func (r *repair) proves(s *mesh.StudyStream, key cas.Key) bool {
	a := r.a
	var refs []cas.Ref
	if rec, err := a.source(r.id); err == nil && rec.Manifest != nil {
		refs = append(refs, *rec.Manifest)
	}
	rows, err := a.instancesOf(r.id)
	if err != nil {
		return false
	}
	for _, row := range rows[:min(len(rows), 4)] {
		refs = append(refs, row.Manifest)
	}
	for _, g := range []cas.Getter{a.shelf(r.id, key), streamed{a, s}} {
		for _, ref := range refs {
			if _, err := cas.GetObject(r.ctx, g, key, ref); err == nil {
				return true
			}
		}
	}
	return false
}

// streamed gets blocks from one holder.
type streamed struct {
	a *Archive
	s *mesh.StudyStream
}

// Get implements cas.Getter.
func (g streamed) Get(ctx context.Context, c cid.Cid) (data []byte, err error) {
	_, err = g.a.transfers.FetchBlocks(ctx, []*mesh.StudyStream{g.s}, []cid.Cid{c}, func(b cas.Block) error { data = b.Data; return nil })
	if err == nil && data == nil {
		err = fmt.Errorf("%w: %s", cas.ErrNotFound, c)
	}
	return data, err
}

// resend takes instances back from a holder whose copy is sealed with the
// study's lost key, as if they were sent here again: a new key is in use.
func (r *repair) resend(s *mesh.StudyStream, todo map[cid.Cid]suspect) error {
	a := r.a
	g := streamed{a, s}
	before := r.mended
	done := make(map[string]bool)
	for _, x := range todo {
		if x.SOP == "" || x.Of == nil || done[x.SOP] {
			continue
		}
		done[x.SOP] = true
		m, err := cas.LoadInstance(r.ctx, g, s.Grant().Key, *x.Of)
		if err != nil {
			r.refused = errors.Join(r.refused, a.explain(s.Holder(), err))
			continue
		}
		got, err := a.Ingest(r.ctx, m.Reader(r.ctx, g, s.Grant().Key), IngestOptions{Study: dicom.UID(r.id.Study)})
		if err != nil {
			if r.ctx.Err() != nil {
				return err
			}
			r.refused = errors.Join(r.refused, a.explain(s.Holder(), err))
			continue
		}
		if string(got.UIDs.Instance) != x.SOP {
			continue
		}
		for c, y := range todo {
			if y.SOP == x.SOP {
				delete(todo, c)
				if err := r.is(y, s.Holder()); err != nil {
					return err
				}
			}
		}
	}
	return r.audit(s, r.mended-before)
}

// countDamage counts the records of a source.
func (a *Archive) countDamage(id sourceID) (n int, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		n = 0
		it := txn.NewIterator(badger.IteratorOptions{Prefix: id.key(tableDamage)})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if !index.Purged(it.Item()) {
				n++
			}
		}
		return nil
	})
	return n, err
}

// damageOf sums up what is wrong with one source now; Since is zero if nothing is.
func (a *Archive) damageOf(id sourceID) (Damage, error) {
	out := Damage{Study: id.Study, Origin: id.Origin}
	sops := make(map[string]bool)
	var after []byte
	for {
		list, err := a.damageAfter(id, after, repairMost)
		if err != nil || len(list) == 0 {
			return out, err
		}
		for _, x := range list {
			out.add(x, !sops[x.SOP])
			sops[x.SOP] = true
		}
		after = id.damageKey(list[len(list)-1].c)
	}
}
