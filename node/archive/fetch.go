package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/access"
	"github.com/priormesh/priormesh/node/audit"
)

// Limits of one transfer.
const (
	maxHolders   = 3               // streams opened for one source
	openTimeout  = 5 * time.Second // for one holder to answer with a grant
	batchBytes   = 32 << 20        // instances asked for and committed together
	batchMost    = 256
	batchAttrs   = 256 << 10 // of their attributes: one transaction must hold them
	putBytes     = 4 << 20   // blocks written together
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
	if _, known := a.Index.Study(study); !known {
		return ErrNotFound
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

// Here says whether every version of a study that the index knows is whole in
// this node's store, but for those that name another patient.
func (a *Archive) Here(study string) (bool, error) {
	if _, known := a.Index.Study(study); !known {
		return false, nil
	}
	versions, err := a.versions(study)
	for _, v := range versions {
		if !v.stranger && (v.behind() || v.lost()) {
			return false, err
		}
	}
	return err == nil, err
}

// Refresh brings the newest revision of a study of which a copy is kept here.
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
	return nil
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
	for _, v := range versions {
		if v.stranger || !v.behind() {
			continue
		}
		if err := a.bringSource(ctx, v.id, v.said); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (a *Archive) bringSource(ctx context.Context, id sourceID, st index.Study) error {
	have, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return err
	}
	if have.Whole && have.Revision >= st.Revision {
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
	if a.sibling(id.Origin) {
		if err := a.adopt(ctx, id, st); !errors.Is(err, errNotShared) {
			return err
		}
	}
	streams, err := a.openHolders(ctx, id, st)
	if err != nil {
		return err
	}
	defer closeAll(streams)
	g := streams[0].Grant()
	t := &transfer{a: a, ctx: ctx, id: id, st: st, ref: g.Manifest, streams: streams, key: g.Key}
	if err := t.run(); err != nil {
		return err
	}
	holder, _ := a.Index.Roster().Allowed(g.Holder)
	if err := a.Audit.Append(audit.Event{Event: "fetch.done", Node: g.Holder.String(), Trust: string(holder), Study: short(id.Study), Purpose: g.Purpose}); err != nil {
		return err
	}
	return nil
}

// openHolders asks those who hold a revision for a grant, all at once, and
// keeps the streams of those that gave one.
func (a *Archive) openHolders(ctx context.Context, id sourceID, st index.Study) ([]*mesh.StudyStream, error) {
	manifest, err := parseRef(st.Manifest)
	if err != nil {
		return nil, err
	}
	connected := make(map[index.NodeID]bool)
	for _, p := range a.transfers.Peers() {
		connected[p.ID] = p.Connected
	}
	var holders []index.NodeID
	for _, h := range a.Index.Holders(id.Study, id.Origin) { // the origin first
		if h.Node != a.Self && h.Revision >= st.Revision && !attemptOf(ctx).spent(h.Node, id.Origin, st.Revision) {
			holders = append(holders, h.Node)
		}
	}
	if len(holders) == 0 {
		return nil, errNobody
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
	holders = holders[:min(len(holders), maxHolders)]
	type answer struct {
		stream *mesh.StudyStream
		err    error
	}
	answers := make([]answer, len(holders))
	var wg sync.WaitGroup
	for i, h := range holders {
		wg.Go(func() {
			octx, cancel := context.WithTimeout(ctx, openTimeout)
			defer cancel()
			s, err := a.transfers.OpenStudy(octx, h, mesh.StudyRequest{Study: id.Study, Origin: id.Origin, Purpose: string(access.DirectCare)})
			if err == nil {
				if g := s.Grant(); g.Revision > st.Revision {
					err = errMoved
				} else if g.Revision != st.Revision || g.Manifest != manifest {
					err = errors.New("it offers another revision than the one its origin announced")
				}
				if err != nil {
					s.Close()
					s = nil
				}
			}
			answers[i] = answer{s, err}
		})
	}
	wg.Wait()
	var streams []*mesh.StudyStream
	var errs []error
	moved := false
	for i, an := range answers {
		if an.err == nil {
			streams = append(streams, an.stream)
			continue
		}
		moved = moved || errors.Is(an.err, errMoved)
		errs = append(errs, a.explain(holders[i], an.err))
	}
	if len(streams) > 0 {
		return streams, nil
	}
	if moved {
		return nil, errMoved
	}
	return nil, fmt.Errorf("no holder of the study can give it now: %w", errors.Join(errs...))
}

// explain says for people why a holder gave nothing.
func (a *Archive) explain(h index.NodeID, err error) error {
	trust, _ := a.Index.Roster().Allowed(h)
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
	a       *Archive
	ctx     context.Context
	id      sourceID
	st      index.Study
	ref     cas.Ref // st's manifest
	streams []*mesh.StudyStream
	key     cas.Key
	trial   cas.Shelf        // takes the blocks while the key is not proven
	shared  map[cid.Cid]bool // not nil: nothing comes by stream, and this is there
}

// shelf is where the blocks go. It changes with the key, which a holder may
// have given wrongly.
func (t *transfer) shelf() cas.Shelf {
	if t.trial != nil {
		return t.trial
	}
	return t.a.shelf(t.id, t.key)
}

type wanted struct {
	series   string
	entry    cas.InstanceEntry
	manifest cas.InstanceManifest
}

func (t *transfer) run() error {
	a := t.a
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
			progress.Bytes += e.Size
		}
	}
	conflicts := 0
	for len(all) > 0 {
		n, bytes, attrs := 0, int64(0), 0
		for n < len(all) && n < batchMost && (n == 0 || bytes+all[n].entry.Size <= batchBytes && attrs+len(all[n].entry.Attrs) <= batchAttrs) {
			bytes += all[n].entry.Size
			attrs += len(all[n].entry.Attrs)
			n++
		}
		c, err := t.batch(all[:n])
		if err != nil {
			return err
		}
		conflicts += c
		all = all[n:]
		progress.InstancesHere += n
		progress.BytesHere += bytes
		a.queue.report(t.id.Study, progress)
		a.news.tell(t.id.Study)
	}
	if err := t.finish(series, conflicts); err != nil {
		return err
	}
	if conflicts > 0 {
		a.Log.Error("instances of a copy were kept out: their SOP Instance UIDs are taken here by other bytes", "study", short(t.id.Study), "instances", conflicts)
		return nil // not whole, so nobody is told that it is
	}
	s, err := index.HoldingStatement(index.Holding{Study: t.id.Study, Origin: t.id.Origin, Revision: t.st.Revision, Instances: t.st.Instances})
	if err != nil {
		return err
	}
	_, err = a.Index.Append(t.ctx, s)
	return err
}

// studyManifest proves the key on the origin's own manifest before it is kept:
// a holder that gives a wrong key must not be able to block the right one.
func (t *transfer) studyManifest() (cas.StudyManifest, error) {
	if t.shared != nil {
		return t.sharedManifest()
	}
	var m cas.StudyManifest
	var err error
	for _, s := range t.streams {
		t.key = s.Grant().Key
		// A wrong key's shelf must not be left behind on disk.
		t.trial = cas.NewMemory().Shelf(t.key.Shelf())
		if err = t.objects([]cas.Ref{t.ref}); err == nil {
			m, err = cas.LoadStudy(t.ctx, t.trial, t.key, t.ref)
		}
		proven := t.trial
		t.trial = nil
		if err == nil {
			err = proven.Enumerate(t.ctx, cid.Undef, func(c cid.Cid, _ int64) error {
				data, err := proven.Get(t.ctx, c)
				if err != nil {
					return err
				}
				return replace(t.ctx, t.shelf(), cas.Block{CID: c, Data: data})
			})
			break
		}
		if t.ctx.Err() != nil {
			return m, err
		}
		t.a.Log.Error("the key that a holder granted does not open the study's manifest; trying another holder's", "study", short(t.id.Study), "holder", s.Holder(), "error", err)
	}
	if err != nil {
		return m, err
	}
	if m.UID != t.id.Study {
		return m, errors.New("the manifest that the origin announced is of another study")
	}
	return m, t.a.Keys.Add(t.id.keyName(), t.key)
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
		m, err := cas.LoadSeries(t.ctx, arriving{t.shelf(), t}, t.key, r)
		if err != nil {
			return nil, err
		}
		if m.UID != study.Series[i].UID || !dicom.UID(m.UID).Valid() {
			return nil, errors.New("a series manifest contradicts its study's")
		}
		for _, e := range m.Instances {
			if !dicom.UID(e.UID).Valid() {
				return nil, errors.New("a series manifest names an instance by what is no UID")
			}
		}
		out[i] = m
	}
	return out, nil
}

// batch brings some instances and makes them visible together.
func (t *transfer) batch(list []wanted) (conflicts int, err error) {
	a := t.a
	todo := list[:0:0]
	for _, w := range list {
		old, err := a.instanceOf(t.id, w.series, w.entry.UID)
		if err != nil && !errors.Is(err, errNoRecord) {
			return 0, err
		}
		if err == nil && old.Manifest == w.entry.Manifest {
			continue
		}
		todo = append(todo, w)
	}
	refs := make([]cas.Ref, len(todo))
	for i, w := range todo {
		refs[i] = w.entry.Manifest
	}
	if err := t.objects(refs); err != nil {
		return 0, err
	}
	manifests := make([]cas.InstanceManifest, len(todo))
	for i := range todo {
		m, err := cas.LoadInstance(t.ctx, arriving{t.shelf(), t}, t.key, todo[i].entry.Manifest)
		if err != nil {
			return 0, err
		}
		if m.UID != todo[i].entry.UID || m.Size != todo[i].entry.Size {
			return 0, errors.New("an instance manifest contradicts its series'")
		}
		manifests[i], todo[i].manifest = m, m
	}
	order := cas.ReadingOrder(manifests...)
	cids := make([]cid.Cid, len(order))
	for i, b := range order {
		cids[i] = b.CID
	}
	if err := t.blocks(cids); err != nil {
		return 0, err
	}
	return t.commit(todo)
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
				Class: m.Class, TransferSyntax: m.TransferSyntax, Size: m.Size, SHA256: m.SHA256[:], Manifest: w.entry.Manifest, Attrs: w.entry.Attrs,
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return conflicts, err
}

// finish makes the revision the one that is here. What an older one had and
// this one has not is no longer listed, but stays: a trust whose node came back
// from an old backup must not make the region drop its last good copies.
func (t *transfer) finish(series []cas.SeriesManifest, conflicts int) error {
	a := t.a
	l := a.lock(t.id.Study)
	l.Lock()
	defer l.Unlock()
	for _, se := range series { // one by one: a transaction holds only so much
		if err := a.update(func(txn *badger.Txn) error { return txn.Set(t.id.seriesKey(se.UID), se.Attrs) }); err != nil {
			return err
		}
	}
	return a.updateSource(t.id, func(txn *badger.Txn, s *source) error {
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
		s.Instances, s.Bytes = t.st.Instances-conflicts, t.st.Bytes
		return nil
	})
}

// bringManifests fetches the lists of a remote study's series and instances,
// and nothing else. Several readers wait for one fetch.
func (a *Archive) bringManifests(ctx context.Context, id sourceID, st index.Study) error {
	done := a.listing.DoChan(id.keyName(), func() (any, error) {
		a.lists.Add(1)
		defer a.lists.Done()
		ctx, cancel := context.WithTimeout(a.running, a.fetching().ReadThrough)
		defer cancel()
		done, err := a.writing(ctx, id)
		if err != nil {
			return nil, err
		}
		defer done()
		ctx, end := a.erase.attend(ctx, id)
		defer end()
		if _, told := a.statementOf(id); !told {
			return nil, errMoved
		}
		if a.erase.pending(id) {
			return nil, errRetracted
		}
		streams, err := a.openHolders(ctx, id, st)
		if err != nil {
			return nil, err
		}
		defer closeAll(streams)
		g := streams[0].Grant()
		t := &transfer{a: a, ctx: ctx, id: id, st: st, ref: g.Manifest, streams: streams, key: g.Key}
		study, err := t.studyManifest()
		if err == nil {
			_, err = t.seriesManifests(study)
		}
		return nil, err
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-done:
		return r.Err
	}
}

func closeAll(streams []*mesh.StudyStream) {
	for _, s := range streams {
		s.Close()
	}
}

// objects brings the blocks of manifests: first the ones that the refs name,
// then the parts of those that are chunked.
func (t *transfer) objects(refs []cas.Ref) error {
	roots := make([]cid.Cid, len(refs))
	for i, r := range refs {
		roots[i] = r.CID
	}
	if err := t.blocks(roots); err != nil {
		return err
	}
	var parts []cid.Cid
	for _, r := range refs {
		cids, err := r.Blocks(t.ctx, arriving{t.shelf(), t}, t.key)
		if err != nil {
			return err
		}
		parts = append(parts, cids[1:]...) // the first is the root
	}
	return t.blocks(parts)
}

// blocks brings those blocks that are not here. What has arrived when it
// fails stays.
func (t *transfer) blocks(cids []cid.Cid) error {
	if t.shared != nil {
		return t.there(cids)
	}
	a := t.a
	var need []cid.Cid
	seen := make(map[cid.Cid]bool, len(cids))
	for _, c := range cids {
		if seen[c] {
			continue
		}
		seen[c] = true
		has, err := t.shelf().Has(t.ctx, c)
		if err != nil {
			return err
		}
		if !has {
			need = append(need, c)
		}
	}
	if len(need) == 0 {
		return nil
	}
	var (
		mu   sync.Mutex
		buf  []cas.Block
		size int
	)
	flush := func() error {
		if len(buf) == 0 {
			return nil
		}
		err := t.shelf().Put(t.ctx, buf...)
		buf, size = nil, 0
		return err
	}
	missing, err := a.transfers.FetchBlocks(t.ctx, t.streams, need, func(b cas.Block) error {
		mu.Lock()
		defer mu.Unlock()
		buf = append(buf, b)
		size += len(b.Data)
		if size < putBytes {
			return nil
		}
		return flush()
	})
	mu.Lock()
	defer mu.Unlock()
	if ferr := flush(); ferr != nil {
		return ferr
	}
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("no holder could supply %d of the study's blocks", len(missing))
	}
	return nil
}
