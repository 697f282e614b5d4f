package archive

import (
	"context"
	"errors"
	"sort"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// publisher gathers the instances of a study into one manifest and one fact.
// What is due lies on disk as the source's Dirty and Settled marks; the map
// only says when.
type publisher struct {
	a      *Archive
	mu     sync.Mutex
	due    map[string]time.Time
	slow   map[string]time.Time // not published again before
	failed map[string]string    // studies that could not be told, and why
	wake   chan struct{}
}

// perInstance slows publishing down as a study grows, so that writing its
// manifest again and again costs a bounded share of its ingest.
const perInstance = time.Millisecond

// retryPublish is the wait after a publication that failed (a full disk, say).
const retryPublish = 5 * time.Second

func newPublisher(a *Archive) *publisher {
	return &publisher{a: a, due: make(map[string]time.Time), slow: make(map[string]time.Time), failed: make(map[string]string), wake: make(chan struct{}, 1)}
}

// Untold lists the studies, shortened, that are stored here and could not be
// told to the region, with the reason.
func (a *Archive) Untold() map[string]string {
	a.pub.mu.Lock()
	defer a.pub.mu.Unlock()
	out := make(map[string]string, len(a.pub.failed))
	for study, why := range a.pub.failed {
		out[short(study)] = why
	}
	return out
}

// recover finds what a stop left unpublished or unsettled.
func (p *publisher) recover() error {
	return p.a.db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableSource}, func(k []byte, s source) error {
			if id, _, ok := parseSourceID(k); ok && id.Origin == p.a.Self && (s.Dirty || !s.Settled) {
				p.due[id.Study] = p.a.Now()
			}
			return nil
		})
	})
}

// touch says that a study has changed. The first change decides when it is
// published: a steady stream of instances must not put it off for ever.
func (p *publisher) touch(study string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := p.a.Now().Add(p.a.PublishAfter)
	if slow := p.slow[study]; slow.After(at) {
		at = slow
	}
	if due, ok := p.due[study]; !ok || due.After(at) {
		p.due[study] = at
		p.poke()
	}
}

func (p *publisher) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *publisher) schedule(study string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.IsZero() {
		delete(p.slow, study)
		return
	}
	if due, ok := p.due[study]; !ok || due.After(at) {
		p.due[study] = at
	}
}

// forget drops what is due of a study.
func (p *publisher) forget(study string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.due, study)
	delete(p.slow, study)
	delete(p.failed, study)
}

func (p *publisher) run(ctx context.Context) {
	for {
		now := p.a.Now()
		var ready []string
		next := time.Hour
		p.mu.Lock()
		for study, at := range p.due {
			if wait := at.Sub(now); wait <= 0 {
				ready = append(ready, study)
				delete(p.due, study)
			} else if wait < next {
				next = wait
			}
		}
		p.mu.Unlock()
		sort.Strings(ready)
		for _, study := range ready {
			if ctx.Err() != nil {
				return
			}
			again, err := p.a.publish(ctx, study)
			if err != nil {
				p.a.Log.Error("a study could not be told to the region; trying again", "study", short(study), "in", retryPublish, "error", err)
				again = p.a.Now().Add(retryPublish)
			}
			p.mu.Lock()
			delete(p.failed, study)
			if err != nil {
				p.failed[study] = err.Error()
			}
			p.mu.Unlock()
			p.schedule(study, again)
		}
		if len(ready) > 0 {
			continue
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-t.C:
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// publish writes the manifest of an own study and tells the region. It returns
// when to come back: zero once the study has settled, or is being erased.
func (a *Archive) publish(ctx context.Context, study string) (again time.Time, err error) {
	id := sourceID{Study: study, Origin: a.Self}
	ctx, end := a.erase.attend(ctx, id)
	defer end()
	again, err = a.tell(ctx, id)
	if err != nil && (errors.Is(err, errErased) || errors.Is(context.Cause(ctx), errErased)) {
		return time.Time{}, nil
	}
	return again, err
}

func (a *Archive) tell(ctx context.Context, id sourceID) (again time.Time, err error) {
	s, err := a.source(id)
	if errors.Is(err, errNoRecord) {
		return time.Time{}, nil // erased
	}
	if err != nil {
		return time.Time{}, err
	}
	writes := s.Dirty // settling alone writes no blocks
	if writes {
		// Before the study's lock: who shuts the gate waits for that.
		done, err := a.space.enter(ctx, id)
		if err != nil {
			return time.Time{}, err
		}
		defer done()
	}
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	s, err = a.source(id)
	if errors.Is(err, errNoRecord) || err == nil && a.erase.under(id) {
		return time.Time{}, nil // erased
	}
	if err != nil {
		return time.Time{}, err
	}
	if s.Dirty && !writes { // it has grown meanwhile
		return a.Now(), nil
	}
	settleAt := time.UnixMilli(s.LastChange).Add(a.SettleAfter)
	settled := !a.Now().Before(settleAt)
	if !s.Dirty && (s.Settled || !settled) {
		if s.Settled {
			return time.Time{}, nil
		}
		return settleAt, nil
	}
	series, err := a.seriesOf(id)
	if err != nil {
		return time.Time{}, err
	}
	if s.Dirty {
		if s.Revision, err = a.nextRevision(id, s.Revision); err != nil {
			return time.Time{}, err
		}
		ref, err := a.saveManifests(ctx, id, s, series)
		if err != nil {
			return time.Time{}, err
		}
		s.Manifest = &ref
	}
	s.Settled, s.Dirty = settled, false
	attrs := make([]dicom.Dataset, len(series))
	for i := range series {
		attrs[i] = series[i].attrs
	}
	st, err := a.statement(id, s, attrs)
	if err != nil {
		return time.Time{}, err
	}
	st.Received = time.UnixMilli(s.LastChange).UTC()
	statement, err := index.StudyStatement(st)
	if err != nil {
		return time.Time{}, err
	}
	if _, err := a.Index.Append(ctx, statement); err != nil {
		return time.Time{}, err
	}
	if err := a.updateSource(id, func(_ *badger.Txn, now *source) error {
		now.Revision, now.Manifest, now.Settled, now.Dirty = s.Revision, s.Manifest, s.Settled, false
		return nil
	}); err != nil {
		return time.Time{}, err
	}
	a.news.tell(id.Study)
	if settled {
		return time.Time{}, nil
	}
	a.pub.slowDown(id.Study, a.Now().Add(time.Duration(s.Instances)*perInstance))
	return settleAt, nil
}

// slowDown makes the next revision of a growing study wait longer the larger
// it is.
func (p *publisher) slowDown(study string, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow[study] = until
}

// nextRevision goes on from what the region was told, which after a crash may
// be one more than the catalogue remembers.
func (a *Archive) nextRevision(id sourceID, mine uint64) (uint64, error) {
	said, err := a.Index.Study(id.Study)
	for _, st := range said {
		if st.Author == a.Self {
			mine = max(mine, st.Value.Revision)
		}
	}
	return mine + 1, err
}

type ownSeries struct {
	uid       string
	attrs     dicom.Dataset
	raw       []byte
	instances []cas.InstanceEntry
}

// seriesOf gathers an own study in reading order.
func (a *Archive) seriesOf(id sourceID) ([]ownSeries, error) {
	all, err := a.instancesOf(id)
	if err != nil {
		return nil, err
	}
	var out []ownSeries
	for _, i := range all { // in key order: by series
		if len(out) == 0 || out[len(out)-1].uid != i.Series {
			raw, err := a.seriesAttrs(id, i.Series)
			if err != nil {
				return nil, err
			}
			attrs, err := dicom.Decode(raw, a.Limits)
			if err != nil {
				return nil, err
			}
			out = append(out, ownSeries{uid: i.Series, attrs: attrs, raw: raw})
		}
		s := &out[len(out)-1]
		s.instances = append(s.instances, cas.InstanceEntry{UID: i.SOP, Attrs: i.Attrs, Size: i.Size, Manifest: i.Manifest})
	}
	number := func(d dicom.Dataset, t dicom.Tag) int { n, _ := d.Int(t); return n }
	sort.SliceStable(out, func(i, j int) bool {
		return number(out[i].attrs, dicom.TagSeriesNumber) < number(out[j].attrs, dicom.TagSeriesNumber)
	})
	for _, s := range out {
		numbers := make(map[string]int, len(s.instances))
		for _, i := range s.instances {
			d, err := dicom.Decode(i.Attrs, a.Limits)
			if err != nil {
				return nil, err
			}
			numbers[i.UID] = number(d, dicom.TagInstanceNumber)
		}
		sort.SliceStable(s.instances, func(i, j int) bool { return numbers[s.instances[i].UID] < numbers[s.instances[j].UID] })
	}
	return out, nil
}

func (a *Archive) seriesAttrs(id sourceID, series string) (raw []byte, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		item, err := getItem(txn, id.seriesKey(series))
		if err == nil {
			raw, err = item.ValueCopy(nil)
		}
		return err
	})
	return raw, err
}

func (a *Archive) saveManifests(ctx context.Context, id sourceID, s source, series []ownSeries) (cas.Ref, error) {
	key, err := a.Keys.Get(id.keyName())
	if err != nil {
		a.damage.look(id)
		return cas.Ref{}, err
	}
	shelf := a.storing(id, key)
	study := cas.StudyManifest{UID: id.Study, Revision: s.Revision, Attrs: s.Attrs}
	for _, x := range series {
		ref, err := cas.SaveSeries(ctx, shelf, key, cas.SeriesManifest{UID: x.uid, Attrs: x.raw, Instances: x.instances})
		if err != nil {
			return cas.Ref{}, err
		}
		study.Series = append(study.Series, cas.SeriesEntry{UID: x.uid, Attrs: x.raw, Manifest: ref})
	}
	return cas.SaveStudy(ctx, shelf, key, study)
}
