package archive

import (
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
)

// A study that was received here and is not in the backup that this node was
// restored from comes back from who holds a copy: under the key, with the lists
// and as the revision that this node told before. So it is own again as it was, and
// nothing has to be told. Until all of it has come it counts as lost; what comes in
// meanwhile from where it was first sent is kept, and told with the rest.

// returns notes of a study of which this node has lost everything that it comes
// back. A key without such a note would be of a study that the catalogue has lost,
// and what has come of it would be taken for all there is: see RecoverLost.
func (a *Archive) returns(id sourceID) error {
	if id.Origin != a.Self {
		return nil
	}
	l := a.lock(id.Study)
	l.Lock()
	defer l.Unlock()
	if _, err := a.source(id); !errors.Is(err, errNoRecord) {
		return err
	}
	return a.updateSource(id, func(_ *badger.Txn, s *source) error {
		s.Whole, s.Settled = true, true // there is nothing to be told of
		return nil
	})
}

// returnedIn says whether an instance that comes back may have its UID, which first
// has. What a copy took it gives up; what was received here since stays.
func (a *Archive) returnedIn(txn *badger.Txn, id sourceID, w wanted, first sop) (bool, error) {
	sum := w.manifest.SHA256
	if first.Origin == a.Self {
		return first.Study == id.Study && [len(sum)]byte(first.SHA256) == sum, nil
	}
	if err := a.displace(txn, first, dicom.UID(w.manifest.UID), sum[:]); err != nil {
		return false, err
	}
	return true, putRecord(txn, append([]byte{tableSOP}, w.manifest.UID...), sop{Study: id.Study, Series: w.series, Origin: id.Origin, SHA256: sum[:]})
}

// returned makes what has come back this node's own.
func (t *transfer) returned(study cas.StudyManifest, series []cas.SeriesManifest, conflicts int) error {
	a := t.a
	l := a.lock(t.id.Study)
	l.Lock()
	defer l.Unlock()
	if err := t.seriesAttrs(series); err != nil {
		return err
	}
	due := false
	err := a.updateSource(t.id, func(txn *badger.Txn, s *source) error {
		as := s.lost() && conflicts == 0 // as it was told
		if as {
			s.Revision, s.Manifest, s.Settled = t.st.Revision, &t.ref, t.st.Settled
			s.LastChange = max(t.st.Received.UnixMilli(), 0)
		} else {
			s.Dirty, s.Settled = true, false
			s.LastChange = a.Now().UnixMilli()
		}
		s.Whole, s.Dirty = true, s.Dirty || !as
		if s.Mixed = s.Mixed || t.st.Mixed; len(s.Attrs) > 0 { // something has come in meanwhile
			more, err := dicom.Decode(s.Attrs, a.Limits)
			if err != nil {
				return err
			}
			before, err := dicom.Decode(study.Attrs, a.Limits)
			if err != nil {
				return err
			}
			s.Mixed = s.Mixed || !a.samePerson(before, more)
		}
		s.Attrs = study.Attrs
		s.Instances, s.Bytes = 0, 0
		due = s.Dirty || !s.Settled
		return eachRecord(txn, t.id.key(tableInstance), func(_ []byte, i instance) error {
			s.Instances++
			s.Bytes += i.Size
			return nil
		})
	})
	if err != nil {
		return err
	}
	if conflicts > 0 {
		a.Log.Error("instances of a study that came back after a restore were kept out: their SOP Instance UIDs are taken here by other bytes", "study", short(t.id.Study), "instances", conflicts)
	}
	if due {
		a.pub.touch(t.id.Study)
	}
	return nil
}
