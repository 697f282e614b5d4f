package archive

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// Found is one study, whoever says it.
type Found struct {
	index.Study                 // as the first version that is shown says it; what is counted is that of all versions shown
	Here        bool            // whole in this node's store
	Part        bool            // a part is whole here: what this node received, what another did, or an older revision
	Damaged     bool            // what was received here is not whole any more
	Lost        bool            // this node has told that it received it, and has nothing of it since it was restored from an older backup
	LostAt      []index.TrustID // who holds a copy of what this node has lost
	Coming      bool            // the fetch queue has it
	Trusts      []index.TrustID // that received it
	Copies      []index.TrustID // that hold a whole copy
	Versions    []Version       // what each node received of it, in the order in which a reader is given them unless Apart
	MoreCopies  bool            // an author tells of more copies than are listed
	AtLeast     bool            // Series, Instances and Bytes may be more: versions overlap and are not all listed here, or a copy is Fuller
	Apart       bool            // what the query asks for is shown, and who reads the study is first given another version, that names, or may name, another patient; or may be, since nothing of this one is here
}

// Version is what one node received of a study.
type Version struct {
	Node       index.NodeID
	Trust      index.TrustID
	Modalities []string
	Series     int
	Instances  int
	Copies     []index.TrustID // that hold a whole copy of it
	Fuller     []index.TrustID // of them, that have more instances than the node tells of: it was restored from an older backup, or its word is on its way
	Matches    bool            // it is of those that were asked for
	Study      index.Study     // as its node says it
	Unlisted   bool            // it names no list of its contents that can be read: it cannot be brought, and is not counted with others
	LostOf     int             // it was received here, and so many instances had been told of before this node was restored: there are fewer now
	Stranger   bool            // it names, or may name, another patient: it is neither shown nor counted with the others
}

// BadQuery says what is wrong with a query: it is the asker's to mend.
type BadQuery struct{ err error }

func (e *BadQuery) Error() string { return e.err.Error() }
func (e *BadQuery) Unwrap() error { return e.err }

// Studies answers a query from the index alone. A study that is being erased is
// left out.
func (a *Archive) Studies(ctx context.Context, q index.Query) ([]Found, index.Answer, error) {
	if err := a.Index.Check(q); err != nil {
		return nil, index.Answer{}, &BadQuery{err}
	}
	ans, err := a.Index.Studies(ctx, q)
	if err != nil {
		return nil, ans, err
	}
	out := make([]Found, 0, len(ans.Studies))
	for _, s := range ans.Studies {
		f, err := a.found(s)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, ans, err
		}
		out = append(out, f)
	}
	return out, ans, nil
}

func (a *Archive) found(s index.StudyAnswer) (Found, error) {
	var f Found
	if a.erase.under(sourceID{Study: s.UID}) {
		return f, ErrNotFound
	}
	asked := make(map[index.NodeID]bool)
	for _, st := range s.Statements[:s.Matching] {
		asked[st.Author] = true
	}
	sources, err := a.sourcesOf(s.UID)
	if err != nil {
		return f, err
	}
	var versions []version
	for _, st := range s.Statements {
		v := a.versionOf(st, sources[st.Author])
		if v.own {
			f.Lost = v.lost()
		}
		// Between two publications of a growing study the catalogue knows more, and a
		// copy may have what its origin has lost.
		if v.own || v.here.Beyond > 0 && !v.behind() {
			v.said.Instances, v.said.Bytes = max(v.said.Instances, v.here.Instances), max(v.said.Bytes, v.here.Bytes)
		}
		versions = append(versions, v)
	}
	arrange(versions)
	// What was asked for is shown, whatever else there is under its UID.
	if i := slices.IndexFunc(versions, func(v version) bool { return asked[v.id.Origin] }); i > 0 && versions[i].stranger() {
		f.Apart = true
		v := versions[i]
		copy(versions[1:], versions[:i])
		versions[0] = v
		group(versions)
	}
	// Where nothing of it is here, a reader is given whoever can be reached.
	f.Apart = f.Apart || !versions[0].whole() && slices.ContainsFunc(versions, func(v version) bool { return v.stranger() && !v.bad && !asked[v.id.Origin] })
	f.Study, f.MoreCopies = versions[0].said, s.Left
	var shown []version
	for _, x := range versions {
		v := Version{Node: x.id.Origin, Trust: x.trust, Modalities: x.said.Modalities, Series: x.said.Series, Instances: x.said.Instances, Stranger: x.stranger(), Unlisted: x.bad && !x.whole(), Matches: asked[x.id.Origin], Study: x.said}
		for _, h := range s.Holdings {
			if h.Value.Origin == v.Node && h.Value.Instances > 0 {
				v.Copies = addTrust(v.Copies, h.Trust)
				if h.Value.Instances > v.Instances {
					v.Fuller = addTrust(v.Fuller, h.Trust)
				}
			}
		}
		if v.LostOf, err = a.lostPart(x.id, x.here); err != nil {
			return f, err
		}
		if x.own && f.Lost {
			for _, h := range a.returnsFrom(x.id, x.said.Revision) {
				trust, _ := a.Index.TrustOf(h)
				f.LostAt = addTrust(f.LostAt, trust)
			}
		}
		f.Versions, f.Trusts = append(f.Versions, v), addTrust(f.Trusts, v.Trust)
		f.Mixed = f.Mixed || x.said.Mixed || v.Stranger
		if !v.Stranger && (!v.Unlisted || len(shown) == 0) {
			shown = append(shown, x)
		}
	}
	for _, h := range s.Holdings {
		if h.Value.Instances > 0 && !slices.Contains(f.Trusts, h.Trust) {
			f.Copies = addTrust(f.Copies, h.Trust)
		}
	}
	if err := a.join(&f, shown); err != nil {
		return f, err
	}
	for _, v := range f.Versions {
		f.AtLeast = f.AtLeast || !v.Stranger && len(v.Fuller) > 0
	}
	_, f.Coming = a.queue.get(s.UID)
	f.Damaged = a.damage.ill(sourceID{s.UID, a.Self})
	f.Here = true
	some := false
	for _, v := range shown {
		f.Here = f.Here && !v.behind() && !a.erase.under(v.id)
		some = some || v.whole() && !(v.own && f.Damaged)
	}
	for _, v := range shown {
		f.Here = f.Here && v.here.Conflicts == 0 && !a.damage.ill(v.id)
	}
	f.Part = some && !f.Here
	return f, nil
}

func addTrust(list []index.TrustID, t index.TrustID) []index.TrustID {
	if slices.Contains(list, t) {
		return list
	}
	return append(list, t)
}

// maxListed bounds how many instances of one study are looked at to count what
// its versions have together.
const maxListed = 10_000

// join counts what the versions that are shown have together. Versions with no
// modality in common share nothing and add up. What others share is counted
// where the lists of all are here; else the counts are the least there can be.
func (a *Archive) join(f *Found, shown []version) error {
	if len(shown) == 1 {
		f.Study.Instances, f.Study.Bytes = shown[0].said.Instances, shown[0].said.Bytes
		return nil
	}
	f.Study.Modalities, f.Study.BodyParts, f.Study.Settled = nil, nil, true
	f.Study.Series, f.Study.Instances, f.Study.Bytes = 0, 0, 0
	bySize := slices.Clone(shown)
	slices.SortStableFunc(bySize, func(x, y version) int { return cmp.Compare(y.said.Instances, x.said.Instances) })
	for _, x := range bySize {
		v := x.said
		apart := len(v.Modalities) > 0 && !slices.ContainsFunc(v.Modalities, func(m string) bool { return slices.Contains(f.Study.Modalities, m) })
		if apart || f.Study.Instances == 0 {
			f.Study.Series, f.Study.Instances, f.Study.Bytes = addUp(f.Study.Series, v.Series), addUp(f.Study.Instances, v.Instances), addUp(f.Study.Bytes, v.Bytes)
		} else {
			f.AtLeast = true
		}
		f.Study.Settled = f.Study.Settled && v.Settled
		for _, m := range v.Modalities {
			f.Study.Modalities = addOnce(f.Study.Modalities, m)
		}
		for _, b := range v.BodyParts {
			f.Study.BodyParts = addOnce(f.Study.BodyParts, b)
		}
	}
	slices.Sort(f.Study.Modalities)
	slices.Sort(f.Study.BodyParts)
	if !f.AtLeast {
		return nil
	}
	series, instances := make(map[string]bool), make(map[string]bool)
	for _, v := range shown {
		if v.behind() {
			return nil
		}
		all, err := a.uidsOf(v.id, maxListed, func(x, sop string) { series[x], instances[sop] = true, true })
		if err != nil || !all {
			return err
		}
	}
	f.Study.Series, f.Study.Instances, f.AtLeast = max(f.Study.Series, len(series)), max(f.Study.Instances, len(instances)), false
	return nil
}

// addUp adds what others say, which may be anything from 0.
func addUp[T int | int64](x, y T) T {
	if sum := x + y; sum >= x {
		return sum
	}
	return T(math.MaxInt)
}

// Listed is a series or instance of a study, with its query attributes.
type Listed struct {
	Study, Series, Instance dicom.UID
	Node                    index.NodeID // whose version it is of
	SeriesAttrs, Attrs      dicom.Dataset
	TransferSyntax          dicom.UID // of an instance that is here
	Size                    int64
	Here                    bool
}

// List lists the instances of a study or series in reading order. The list of
// a remote study is fetched once and kept, if bring is set; the instances are
// not. Errors are those of Objects, and ErrNotListed.
func (a *Archive) List(ctx context.Context, ref Ref, bring bool) ([]Listed, error) {
	versions, err := a.versions(string(ref.Study))
	if err != nil {
		return nil, err
	}
	var out []Listed
	var gone error // why something is not listed
	seen := make(map[string]bool)
	for i, v := range versions {
		if !goesOn(versions, i, len(out) > 0) {
			break
		}
		if v.bad && !v.here.Whole {
			gone = cmp.Or(gone, error(&Unavailable{Reason: v.badText(), RetryAfter: a.fetching().RetryMax}))
			continue
		}
		p := mesh.Push{}
		if bring {
			p.Depth = mesh.PushLists
		}
		id := v.id
		entries, err := a.entries(ctx, v, ref, p)
		if err != nil && ctx.Err() == nil && warned(versions, v) {
			gone = cmp.Or(gone, err)
			continue // the others are listed whoever is out of reach
		}
		if err != nil {
			return nil, err
		}
		damaged, all, err := a.damagedInstances(id)
		if err != nil {
			return nil, err
		}
		series := make(map[string]dicom.Dataset)
		for _, e := range entries {
			if seen[e.inst.UID] {
				continue
			}
			l := Listed{Node: id.Origin, Study: ref.Study, Series: dicom.UID(e.series.UID), Instance: dicom.UID(e.inst.UID), Size: e.inst.Size}
			rec, err := a.instanceOf(id, e.series.UID, e.inst.UID)
			if err == nil {
				l.Here, l.TransferSyntax = !all && !damaged[e.inst.UID], dicom.UID(rec.TransferSyntax)
			}
			var ok bool
			if l.SeriesAttrs, ok = series[e.series.UID]; !ok {
				raw := e.series.Attrs
				if raw == nil { // it is from the catalogue
					if raw, err = a.seriesAttrs(id, e.series.UID); err != nil {
						return nil, err
					}
				}
				if l.SeriesAttrs, err = a.attrs(raw, seriesTags); err != nil {
					gone = cmp.Or(gone, a.contradicting(id, e.revision, err))
					break
				}
				series[e.series.UID] = l.SeriesAttrs
			}
			if l.Attrs, err = a.attrs(e.inst.Attrs, instanceTags); err != nil {
				gone = cmp.Or(gone, a.contradicting(id, e.revision, err))
				break
			}
			seen[e.inst.UID] = true
			out = append(out, l)
		}
	}
	if len(out) == 0 {
		return nil, gone
	}
	return out, nil
}
