package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// Limits of one transfer.
const (
	batchBytes   = 16 << 20 // instances committed together
	batchMost    = 256
	batchAttrs   = 256 << 10 // of their attributes: one transaction must hold them
	aheadBytes   = 64 << 20  // of instances that are asked for before those before them are here
	movedWait    = 200 * time.Millisecond
	maxErrorText = 512
)

// errMoved says that a holder is ahead of the index; the fact is on its way.
var errMoved = errors.New("the holder has a newer revision than this node has heard of")

// errNobody says that there is nobody to ask.
var errNobody = errors.New("nobody who has the study can be asked for it: all have refused it, or it is not known who has it")

// Enqueue asks for a study to be brought here. It returns when the wish is on
// disk; ErrNotFound if no trust says that it has such a study. What everybody
// has refused is asked for again only if somebody waits for it.
func (a *Archive) Enqueue(study string, p Priority, reason, order string) error {
	return a.enqueue(Task{Study: study, Priority: p, Reason: reason, Order: order}, false)
}

// Ask is Enqueue by a person, who may have telephoned: those who have refused
// the study are asked again, whatever the class.
func (a *Archive) Ask(study string, p Priority, reason string) error {
	return a.enqueue(Task{Study: study, Priority: p, Reason: reason}, true)
}

// read is Enqueue for a reader. Readers ask often; a refusal is not asked about
// more often than a failure is.
func (a *Archive) read(study string) error {
	if t, ok := a.queue.get(study); ok && t.State == Refused && a.Now().Sub(time.UnixMilli(t.Refused)) < a.fetching().RetryMin {
		return nil
	}
	return a.Enqueue(study, Interactive, "somebody is reading it", "")
}

// Cancel takes a study off the fetch queue, and says whether it was on it. What
// has come of it stays until its space is needed.
func (a *Archive) Cancel(study string) (was bool, err error) {
	was, err = a.queue.cancel(study)
	a.news.tell(study)
	return was, err
}

// Cancelled says that a study was taken off the fetch queue and not asked for
// since, as far as that is remembered.
func (a *Archive) Cancelled(study string) bool { return a.queue.cancelled(study) }

func (a *Archive) enqueue(t Task, person bool) error {
	study := t.Study
	if said, err := a.Index.Study(study); err != nil || len(said) == 0 {
		return cmp.Or(err, ErrNotFound)
	}
	here, err := a.Here(study)
	if err != nil {
		return err
	}
	if here {
		a.space.wanted(study)
		return nil
	}
	if a.Room != nil {
		if err := a.Room.Note(false); err != nil {
			return &Unavailable{Reason: fmt.Sprintf("the study is held elsewhere and cannot be brought now: %s", err), RetryAfter: a.fetching().RetryMin}
		}
	}
	return a.queue.add(t, person)
}

// Here says whether every version of a study that the index knows and that is
// brought is whole in this node's store.
func (a *Archive) Here(study string) (bool, error) {
	if said, err := a.Index.Study(study); err != nil || len(said) == 0 {
		return false, err
	}
	versions, err := a.versions(study)
	here := false
	for _, v := range versions {
		if !toBring(versions, v) {
			continue
		}
		if v.behind() {
			return false, err
		}
		here = true
	}
	return here, err
}

// Refresh brings the newest revision of a study of which a copy is kept here, and
// what this node has lost of which a copy is told.
func (a *Archive) Refresh(study string) error {
	sources, err := a.sourcesOf(study)
	if err != nil {
		return err
	}
	for origin, s := range sources {
		if origin != a.Self && s.Whole {
			return a.Enqueue(study, Background, "a newer revision of a copy", "")
		}
	}
	return a.regain(study)
}

// regain has what this node received and lost when it was restored brought from
// whoever holds a copy: nobody else may keep it, for its origin is said to have it.
func (a *Archive) regain(study string) error {
	id := sourceID{study, a.Self}
	st, told := a.statementOf(id)
	s, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	if !told || !s.lost() || len(a.returnsFrom(id, st.Revision)) == 0 {
		return nil
	}
	return a.Enqueue(study, Background, "this node received it, and lost it when it was restored from an older backup", "")
}

// Due tries a waiting fetch of a study at once: by has said something new of it.
func (a *Archive) Due(study string, by index.NodeID) {
	a.queue.changed(study, by)
	a.damage.due(study)
}

// Kick tries all waiting fetches and repairs at once: there is room again.
func (a *Archive) Kick() {
	a.queue.kick()
	a.damage.kick()
}

// Back tries at once what waits for one of these nodes.
func (a *Archive) Back(nodes ...index.NodeID) {
	a.queue.back(nodes)
	a.damage.kick()
}

// News tells readers that wait that the index has heard something of a study.
func (a *Archive) News(study string) { a.news.tell(study) }

// Tasks lists the fetch queue, most urgent first.
func (a *Archive) Tasks() []TaskStatus {
	out := a.queue.list()
	for i := range out {
		a.sayWhy(&out[i])
	}
	return out
}

// TaskOf returns a study's place in the fetch queue.
func (a *Archive) TaskOf(study string) (TaskStatus, bool) {
	t, ok := a.queue.get(study)
	if ok && (t.State == Queued || t.State == Paused) {
		for _, o := range a.queue.list() { // who goes before it
			if o.Study == study {
				t = o
			}
		}
	}
	a.sayWhy(&t)
	return t, ok
}

// bring fetches every version of a study that is not whole here.
func (a *Archive) bring(ctx context.Context, t Task) error {
	versions, err := a.versions(t.Study)
	if err != nil {
		return fmt.Errorf("the index does not know the study now: %w", err)
	}
	var errs []error
	some := false
	for _, v := range versions {
		some = some || toBring(versions, v)
		if !toBring(versions, v) || !v.behind() {
			continue
		}
		if err := a.bringSource(ctx, v.id, v.said, t); err != nil {
			errs = append(errs, err)
			if errors.Is(err, errContradicts) {
				a.distrusted.note(v.id, v.said.Revision, err)
			}
		}
	}
	if !some {
		return errors.New(versions[0].badText())
	}
	return errors.Join(errs...)
}

func (a *Archive) bringSource(ctx context.Context, id sourceID, st index.Study, task Task) error {
	have, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	if have.Whole && have.Revision >= st.Revision || id.Origin == a.Self && !have.lost() {
		return nil
	}
	done, err := a.writing(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	ctx, end := a.erase.attend(ctx, id)
	defer end()
	// It may have waited while the study was erased.
	if now, told := a.statementOf(id); !told || now.Revision < st.Revision {
		return errMoved
	}
	if a.erase.pending(id) {
		return errRetracted
	}
	if a.Space.Shared && a.ours(id.Origin) {
		if err := a.adopt(ctx, id, st); !errors.Is(err, errNotShared) {
			return err
		}
	}
	// Whatever becomes of it, nobody needs the holders any more who does not read.
	defer a.closeRemotes(id)
	r, leave, err := a.remote(ctx, id, st, mesh.Push{Depth: mesh.PushManifests})
	if errors.Is(err, errNobody) && id.Origin == a.Self {
		return fmt.Errorf("this node received it and lost it when it was restored from an older backup, and no copy is known: have it sent here again, or import it (%w)", err)
	}
	if err != nil {
		return err
	}
	defer leave()
	t := &transfer{a: a, ctx: ctx, id: id, st: st, ref: r.ref, remote: r, key: r.key, priority: task.Priority.onLine()}
	if err := t.run(); err != nil {
		return err
	}
	return a.auditDone(r)
}

// auditDone writes down from whom a study was brought.
func (a *Archive) auditDone(r *remote) error {
	for _, h := range r.gave() {
		trust, _ := a.Index.TrustOf(h)
		if err := a.Audit.Append(audit.Event{Event: "fetch.done", Node: h.String(), Trust: string(trust), Study: short(r.id.Study), Purpose: string(access.DirectCare)}); err != nil {
			return err
		}
	}
	return nil
}

// explain says for people why a holder gave nothing.
func (a *Archive) explain(h index.NodeID, err error) error {
	trust, _ := a.Index.TrustOf(h)
	if errors.Is(err, mesh.ErrRefused) {
		return fmt.Errorf("%s refused it or no longer has it", trust)
	}
	if quiet := a.Silence(h); quiet != "" {
		return errors.New(quiet)
	}
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "…"
	}
	return fmt.Errorf("%s: %s", trust, text)
}

// transfer brings one source. It may be broken off anywhere: blocks that are
// here are not asked for again, and an instance is visible once all of it is.
type transfer struct {
	a        *Archive
	ctx      context.Context
	id       sourceID
	st       index.Study
	ref      cas.Ref // st's manifest
	key      cas.Key
	remote   *remote
	priority uint8
	shared   map[cid.Cid]bool // not nil: nothing comes from elsewhere, and this is there
}

// get reads what has come.
func (t *transfer) get() cas.Getter {
	if t.shared != nil {
		return t.a.shelf(t.id, t.key)
	}
	return t.remote
}

type wanted struct {
	series   string
	entry    cas.InstanceEntry
	manifest cas.InstanceManifest
	other    bool // it names another patient than its origin says
}

func (t *transfer) run() error {
	a := t.a
	if err := a.returns(t.id); err != nil {
		return err
	}
	study, err := t.studyManifest()
	if err != nil {
		return err
	}
	series, err := t.seriesManifests(study)
	if err != nil {
		return err
	}
	var all []wanted
	progress := Progress{}
	for _, se := range series {
		for _, e := range se.Instances {
			all = append(all, wanted{series: se.UID, entry: e})
			progress.Instances++
			progress.Bytes = addUp(progress.Bytes, e.Size)
		}
	}
	conflicts := 0
	var coming []batch
	defer func() { // if it is broken off
		for _, b := range coming {
			b.leave()
		}
	}()
	ahead := int64(0)
	for len(all) > 0 || len(coming) > 0 {
		for len(all) > 0 && (len(coming) == 0 || ahead < aheadBytes) {
			n, attrs := 0, 0
			var b batch
			for n < len(all) && n < batchMost && (n == 0 || b.bytes+all[n].entry.Size <= batchBytes && attrs+len(all[n].entry.Attrs) <= batchAttrs) {
				b.bytes += all[n].entry.Size
				attrs += len(all[n].entry.Attrs)
				n++
			}
			b.list, all = all[:n], all[n:]
			if err := t.ask(&b); err != nil {
				return err
			}
			ahead += b.bytes
			coming = append(coming, b)
		}
		b := coming[0]
		coming = coming[1:]
		ahead -= b.bytes
		c, err := t.land(b)
		b.leave()
		if err != nil {
			return err
		}
		conflicts += c
		progress.InstancesHere += len(b.list)
		progress.BytesHere += b.bytes
		a.queue.report(t.id.Study, progress)
		a.news.tell(t.id.Study)
	}
	if t.id.Origin == a.Self {
		return t.returned(study, series, conflicts)
	}
	more, err := t.finish(series, conflicts)
	if err != nil {
		return err
	}
	if conflicts > 0 {
		a.Log.Error("instances of a copy were kept out: their SOP Instance UIDs are taken here by other bytes", "study", short(t.id.Study), "instances", conflicts)
		return nil // not whole, so nobody is told that it is
	}
	s, err := index.HoldingStatement(index.Holding{Study: t.id.Study, Origin: t.id.Origin, Revision: t.st.Revision, Instances: addUp(t.st.Instances, more)})
	if err != nil {
		return err
	}
	_, err = a.Index.Append(t.ctx, s)
	return err
}

// batch is instances that become visible together.
type batch struct {
	list  []wanted
	todo  []wanted // of list, those that are not visible yet
	wants []mesh.Want
	bytes int64
	leave func() // takes the wish for them back
}

func (t *transfer) studyManifest() (cas.StudyManifest, error) {
	if err := t.objects([]cas.Ref{t.ref}); err != nil {
		return cas.StudyManifest{}, err
	}
	m, err := cas.LoadStudy(t.ctx, t.get(), t.key, t.ref)
	if err == nil {
		err = ofStudy(m, t.id.Study)
	}
	return m, err
}

func (t *transfer) seriesManifests(study cas.StudyManifest) ([]cas.SeriesManifest, error) {
	refs := make([]cas.Ref, len(study.Series))
	for i, s := range study.Series {
		refs[i] = s.Manifest
	}
	if err := t.objects(refs); err != nil {
		return nil, err
	}
	out := make([]cas.SeriesManifest, len(refs))
	for i, r := range refs {
		m, err := cas.LoadSeries(t.ctx, t.get(), t.key, r)
		if err != nil {
			return nil, err
		}
		if err := ofSeries(m, study.Series[i]); err != nil {
			return nil, err
		}
		for _, raw := range [][]byte{study.Series[i].Attrs, m.Attrs} {
			if _, err := t.a.attrs(raw, seriesTags); err != nil {
				return nil, err
			}
		}
		if err := validUIDs(m); err != nil {
			return nil, err
		}
		out[i] = m
	}
	return out, nil
}

// ask finds out what is lacking of a batch, and asks for it.
func (t *transfer) ask(b *batch) error {
	b.leave = func() {}
	var refs []cas.Ref
	for _, w := range b.list {
		old, err := t.a.instanceOf(t.id, w.series, w.entry.UID)
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if err == nil && old.Manifest == w.entry.Manifest {
			continue
		}
		b.todo = append(b.todo, w)
		refs = append(refs, w.entry.Manifest)
	}
	if err := t.objects(refs); err != nil {
		return err
	}
	manifests := make([]cas.InstanceManifest, len(b.todo))
	for i, w := range b.todo {
		m, err := cas.LoadInstance(t.ctx, t.get(), t.key, w.entry.Manifest)
		if err != nil {
			return err
		}
		if err := ofInstance(m, w.entry); err != nil {
			return err
		}
		if _, err := t.a.attrs(w.entry.Attrs, instanceTags); err != nil {
			return err
		}
		manifests[i], b.todo[i].manifest = m, m
	}
	order := wantsOf(cas.ReadingOrder(manifests...))
	if t.shared != nil {
		return t.there(order)
	}
	for _, w := range order {
		here, err := t.remote.has(t.ctx, w.CID)
		if err != nil {
			return err
		}
		if !here {
			b.wants = append(b.wants, w)
		}
	}
	b.leave = t.remote.draw.Ask(b.wants, t.priority)
	return nil
}

// land waits until a batch is here and durable, and makes it visible.
func (t *transfer) land(b batch) (conflicts int, err error) {
	if t.shared == nil {
		if err := t.remote.bring(t.ctx, b.wants, t.priority); err != nil {
			return 0, err
		}
		if err := t.remote.land.settle(t.ctx); err != nil {
			return 0, err
		}
	}
	if t.shared == nil && t.id.Origin != t.a.Self {
		for i, w := range b.todo {
			r := w.manifest.Reader(t.ctx, t.get(), t.key)
			same, err := t.a.agrees(r, w.manifest, t.id.Study, w.series, t.st)
			r.Close()
			if err != nil {
				return 0, err
			}
			if b.todo[i].other = !same; !same { // whoever reads it as it comes is warned
				t.a.foreseen.noteMixed(t.id, t.st.Revision)
			}
		}
	}
	return t.commit(b.todo)
}

// objects has the blocks of manifests here.
func (t *transfer) objects(refs []cas.Ref) error {
	if t.shared == nil {
		return t.remote.objects(t.ctx, refs, t.priority)
	}
	var wants []mesh.Want
	for _, r := range refs {
		if err := t.there([]mesh.Want{{CID: r.CID}}); err != nil {
			return err
		}
		cids, err := r.Blocks(t.ctx, t.get(), t.key)
		if err != nil {
			return err
		}
		for _, c := range cids {
			wants = append(wants, mesh.Want{CID: c})
		}
	}
	return t.there(wants)
}

func (t *transfer) commit(list []wanted) (conflicts int, err error) {
	a := t.a
	l := a.lock(t.id.Study)
	l.Lock()
	defer l.Unlock()
	err = a.update(func(txn *badger.Txn) error {
		conflicts = 0
		for _, w := range list {
			m := w.manifest
			sopKey := append([]byte{tableSOP}, m.UID...)
			first, err := getRecord[sop](txn, sopKey)
			if t.id.Origin == a.Self && err == nil {
				here, rerr := a.returnedIn(txn, t.id, w, first)
				if rerr != nil {
					return rerr
				}
				if !here {
					conflicts++
					continue
				}
				first, err = getRecord[sop](txn, sopKey)
			}
			switch {
			case errors.Is(err, errNoRecord):
				err = putRecord(txn, sopKey, sop{Study: t.id.Study, Series: w.series, Origin: t.id.Origin, SHA256: m.SHA256[:]})
			case err == nil && !bytes.Equal(first.SHA256, m.SHA256[:]) && first.Origin == t.id.Origin && first.Study == t.id.Study:
				// The origin itself replaced it in a newer revision.
				err = putRecord(txn, sopKey, sop{Study: t.id.Study, Series: w.series, Origin: t.id.Origin, SHA256: m.SHA256[:]})
			case err == nil && !bytes.Equal(first.SHA256, m.SHA256[:]):
				conflicts++
				// Written as it was, so that nobody gives up the UID at the same time
				// and misses the conflict.
				if err := putRecord(txn, sopKey, first); err != nil {
					return err
				}
				if err := putRecord(txn, t.id.instanceKey(tableConflict, w.series, m.UID), a.Now().UnixMilli()); err != nil {
					return err
				}
				continue
			}
			if err != nil {
				return err
			}
			if err := putRecord(txn, t.id.instanceKey(tableInstance, w.series, m.UID), instance{
				Class: m.Class, TransferSyntax: m.TransferSyntax, Size: m.Size, SHA256: m.SHA256[:], Manifest: w.entry.Manifest, Attrs: w.entry.Attrs, Other: w.other,
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return conflicts, err
}

// finish makes the revision the one that is here. What an older one had and this one
// has not is given with it, and how much that is is told: a trust whose node came
// back from an old backup must not make the region drop its last good copies.
func (t *transfer) finish(series []cas.SeriesManifest, conflicts int) (beyond int, err error) {
	a := t.a
	l := a.lock(t.id.Study)
	l.Lock()
	defer l.Unlock()
	if err := t.seriesAttrs(series); err != nil {
		return 0, err
	}
	listed := make(map[string]bool)
	for _, se := range series {
		for _, e := range se.Instances {
			listed[e.UID] = true
		}
	}
	err = a.updateSource(t.id, func(txn *badger.Txn, s *source) error {
		whole := true
		if conflicts > 0 { // those that were ended since are brought with the next attempt
			kept := 0
			it := txn.NewIterator(badger.IteratorOptions{Prefix: t.id.key(tableConflict)})
			for it.Rewind(); it.Valid(); it.Next() {
				kept++
			}
			it.Close()
			whole = kept >= conflicts
		}
		s.Revision, s.Manifest, s.Settled, s.Whole, s.Conflicts = t.st.Revision, &t.ref, t.st.Settled, whole, conflicts
		s.Instances, s.Bytes = -conflicts, 0 // what its origin says of that is not looked at
		for _, se := range series {
			s.Instances += len(se.Instances)
			for _, e := range se.Instances {
				s.Bytes = addUp(s.Bytes, e.Size)
			}
		}
		s.Mixed, beyond = false, 0
		defer func() { s.Beyond = beyond }()
		return eachRecord(txn, t.id.key(tableInstance), func(k []byte, i instance) error {
			s.Mixed = s.Mixed || i.Other
			_, rest, _ := parseSourceID(k)
			if _, uid, ok := bytes.Cut(rest, []byte{0}); ok && !listed[string(uid)] {
				beyond++
				s.Instances++
				s.Bytes = addUp(s.Bytes, i.Size)
			}
			return nil
		})
	})
	return beyond, err
}

// seriesAttrs writes what is said of each series: one by one, a transaction holds
// only so much.
func (t *transfer) seriesAttrs(series []cas.SeriesManifest) error {
	for _, se := range series {
		if err := t.a.update(func(txn *badger.Txn) error { return txn.Set(t.id.seriesKey(se.UID), se.Attrs) }); err != nil {
			return err
		}
	}
	return nil
}

func closeAll(streams []*mesh.StudyStream) {
	for _, s := range streams {
		s.Close()
	}
}
