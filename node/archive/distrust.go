package archive

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
)

// What another node tells of a study, its lists and the bytes of its instances have to
// agree: a viewer files an image by what stands in it, whatever it was asked for under.
// Of a revision that was found not to agree nothing is shown that is not here whole
// already; who made it is named. Whose patient an instance names is not in its lists: of
// that a reader is warned, as of any study that names several.

// errContradicts says that something names under a UID what is another's.
var errContradicts = errors.New("its lists contradict each other")

func ofStudy(m cas.StudyManifest, uid string) error {
	if m.UID != uid {
		return fmt.Errorf("%w: the manifest that the origin announced is of another study", errContradicts)
	}
	return nil
}

func ofSeries(m cas.SeriesManifest, e cas.SeriesEntry) error {
	if m.UID != e.UID {
		return fmt.Errorf("%w: a series manifest contradicts its study's", errContradicts)
	}
	return nil
}

func ofInstance(m cas.InstanceManifest, e cas.InstanceEntry) error {
	if m.UID != e.UID || m.Size != e.Size {
		return fmt.Errorf("%w: an instance manifest contradicts its series'", errContradicts)
	}
	if m.HeaderLen <= 0 { // nor where the pixels are
		return fmt.Errorf("%w: an instance manifest does not say where the header is", errContradicts)
	}
	return nil
}

// attrs reads the query attributes that a list has of one of its levels. Nothing but
// those is taken, and UIDs are not: the list itself says them.
func (a *Archive) attrs(raw []byte, tags []dicom.Tag) (dicom.Dataset, error) {
	d, err := dicom.Decode(raw, a.Limits)
	if err != nil {
		return d, fmt.Errorf("%w: attributes in a list cannot be read: %w", errContradicts, err)
	}
	return pick(d, tags), nil
}

// agrees looks into the header of an instance that has come: are its bytes the instance
// that the lists say they are? same says that they name the patient of its study, as
// far as anybody can tell.
func (a *Archive) agrees(r io.ReaderAt, m cas.InstanceManifest, study, series string, said index.Study) (same bool, err error) {
	inst, err := dicom.Scan(io.NewSectionReader(r, 0, m.HeaderLen), a.Limits, dicom.Handler{})
	var limit dicom.ErrLimit // this node's own, and nobody's contradiction
	if Rejected(err) && !errors.As(err, &limit) {
		return false, fmt.Errorf("%w: what an instance manifest names is no DICOM instance: %w", errContradicts, err)
	}
	if err != nil {
		return false, err
	}
	defer inst.Release()
	if u := inst.UIDs; string(u.Study) != study || string(u.Series) != series || string(u.Instance) != m.UID || string(u.Class) != m.Class || string(u.TransferSyntax) != m.TransferSyntax {
		return false, fmt.Errorf("%w: the bytes of an instance are another's, or of another study or series", errContradicts)
	}
	return noContradiction(said, index.Study{Name: inst.Data.String(dicom.TagPatientName), BirthDate: inst.Data.String(dicom.TagPatientBirthDate), Sex: inst.Data.String(dicom.TagPatientSex)}), nil
}

// maxDistrusted bounds how many versions are remembered; of more it is found out again.
const maxDistrusted = 10_000

// distrusted are revisions of versions that were found to contradict themselves. After
// a restart they are found again.
type distrusted struct {
	mu sync.Mutex
	of map[sourceID]distrust
}

type distrust struct {
	revision uint64
	why      string
}

func (d *distrusted) note(id sourceID, revision uint64, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil || len(d.of) >= maxDistrusted {
		d.of = make(map[sourceID]distrust)
	}
	d.of[id] = distrust{revision, why.Error()}
}

func (d *distrusted) why(id sourceID, revision uint64) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if x, ok := d.of[id]; ok && x.revision == revision {
		return x.why
	}
	return ""
}

// contradicting says in a reader's words that what a revision of a version consists of contradicts itself.
func (a *Archive) contradicting(id sourceID, revision uint64, err error) error {
	if err == nil || !errors.Is(err, errContradicts) {
		return err
	}
	if id.Origin != a.Self {
		a.distrusted.note(id, revision, err)
	}
	trust, _ := a.Index.TrustOf(id.Origin)
	return &Unavailable{Reason: contradictsText(trust, err.Error()), RetryAfter: a.fetching().RetryMax}
}

func contradictsText(trust index.TrustID, why string) string {
	return fmt.Sprintf("%s tells of this study and %s: nothing of that is shown. Ask %s to see to it", trust, why, trust)
}
