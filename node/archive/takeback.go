package archive

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// What this node received after the backup that it was restored from is not here
// any more; who has a copy still has it. It comes back through the door by which
// it came, and is this node's own again.

// takeBackWithin is how long what comes back is not told of before it is all here.
const takeBackWithin = 10 * time.Minute

// wantBack asks for what this node had received, and has nothing of, where
// somebody keeps a copy.
func (a *Archive) wantBack(lost []sourceID) (wanted int, err error) {
	for _, id := range lost {
		if len(a.keepersOf(id)) == 0 {
			continue
		}
		if err := a.queue.add(Task{Study: id.Study, Priority: Background, Reason: "it was received here after the backup that this node was restored from"}, false); err != nil {
			return wanted, err
		}
		wanted++
	}
	return wanted, nil
}

// keepersOf lists those who keep a copy of all that this node says of an own study.
func (a *Archive) keepersOf(id sourceID) []index.NodeID {
	st, told := a.statementOf(id)
	if !told {
		return nil
	}
	return a.holdersOf(id, st.Revision)
}

// lostText says what becomes of a study that this node has lost.
func (a *Archive) lostText(id sourceID, instances int) string {
	text := fmt.Sprintf("this node has received this study (%d instances) and has nothing of it since it was restored from an older backup", instances)
	if keepers := a.keepersOf(id); len(keepers) > 0 {
		return text + ": it is brought back from a copy at " + a.trustsOf(keepers)
	}
	return text + ", and nobody has told of a copy: send it here again"
}

// ownLost says of an own study that nothing is here of what this node has told.
func (a *Archive) ownLost(id sourceID) (st index.Study, lost bool, err error) {
	s, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return st, false, err
	}
	st, told := a.statementOf(id)
	return st, version{own: true, told: told, said: st, here: s}.lost(), nil
}

// awaitBack waits until a study that this node has lost has come back. The error
// is *Unavailable if nobody can give it, or it does not come.
func (a *Archive) awaitBack(ctx context.Context, id sourceID, st index.Study) error {
	if len(a.keepersOf(id)) == 0 {
		return &Unavailable{Reason: a.lostText(id, st.Instances), RetryAfter: a.fetching().RetryMax}
	}
	return a.await(ctx, id.Study, func() (bool, error) {
		s, err := a.source(id)
		if errors.Is(err, errNoRecord) {
			return false, nil
		}
		return err == nil && s.Instances >= st.Instances, err
	})
}

// takeBack brings such a study. Nothing of it is visible before all of it is
// here, so that what is told of it anew is no part of what it was.
func (a *Archive) takeBack(ctx context.Context, id sourceID, st index.Study, task Task) error {
	ctx, end := a.erase.attend(ctx, id)
	defer end()
	if a.erase.pending(id) {
		return errRetracted
	}
	defer a.closeRemotes(id)
	r, leave, err := a.remote(ctx, id, st, mesh.Push{Depth: mesh.PushManifests})
	if err != nil {
		return err
	}
	defer leave()
	t := &transfer{a: a, ctx: ctx, id: id, st: st, ref: r.ref, remote: r, key: r.key, priority: task.Priority.onLine()}
	all, err := t.gather()
	if err != nil {
		return err
	}
	a.pub.slowDown(id.Study, a.Now().Add(takeBackWithin))
	for _, w := range all {
		if err := a.storeAgain(ctx, r, w.manifest); err != nil {
			return err
		}
	}
	if _, err := a.publish(ctx, id.Study); err != nil {
		return err
	}
	a.Log.Info("a study that this node had received and lost has come back from a copy", "study", short(id.Study), "instances", len(all))
	return a.auditDone(r)
}

// storeAgain takes an instance in as if it were sent: its bytes say what it is.
func (a *Archive) storeAgain(ctx context.Context, r *remote, m cas.InstanceManifest) error {
	in := m.Reader(ctx, r.land.shelf, r.key)
	got, err := a.Ingest(ctx, in, IngestOptions{})
	in.Close()
	var conflict *Conflict
	switch {
	case errors.As(err, &conflict):
		a.Log.Error("an instance of a study that came back from a copy is kept out: its SOP Instance UID is taken here by other bytes", "study", short(r.id.Study))
		return nil
	case err == nil && got.SHA256 != m.SHA256:
		return errors.New("an instance of the copy is not what its manifest says")
	}
	return err
}

// gather has all of a study here, durable and not yet visible.
func (t *transfer) gather() ([]wanted, error) {
	study, err := t.studyManifest()
	if err != nil {
		return nil, err
	}
	series, err := t.seriesManifests(study)
	if err != nil {
		return nil, err
	}
	var out []wanted
	progress := Progress{}
	for _, se := range series {
		for _, e := range se.Instances {
			out = append(out, wanted{series: se.UID, entry: e})
			progress.Instances++
			progress.Bytes += e.Size
		}
	}
	for begin := 0; begin < len(out); {
		b := batch{}
		for begin+len(b.list) < len(out) && len(b.list) < batchMost && (len(b.list) == 0 || b.bytes < batchBytes) {
			b.list = out[begin : begin+len(b.list)+1]
			b.bytes += b.list[len(b.list)-1].entry.Size
		}
		if err := t.ask(&b); err != nil {
			return nil, err
		}
		err := t.remote.bring(t.ctx, b.wants, t.priority)
		b.leave()
		if err == nil {
			err = t.remote.land.settle(t.ctx)
		}
		if err != nil {
			return nil, err
		}
		copy(b.list, b.todo) // with their manifests: nothing of it is visible, so nothing was passed over
		begin += len(b.list)
		progress.InstancesHere += len(b.list)
		progress.BytesHere += b.bytes
		t.a.queue.report(t.id.Study, progress)
	}
	return out, nil
}
