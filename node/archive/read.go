package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
)

// Ref names a study, a series of it or an instance of that.
type Ref struct{ Study, Series, Instance dicom.UID }

// Object is one instance: here, or with those who hold it and read from there.
type Object struct {
	a      *Archive
	id     sourceID
	series string
	sop    string
	rec    instance
	away   *away // nil: it is here
}

// away reads an instance that is not all here where it is held.
type away struct {
	a  *Archive
	id sourceID
	st index.Study
	p  mesh.Push // what comes along when nobody has the study open yet
	m  cas.InstanceManifest
}

// read returns a block, and asks for those behind it that will be read next: not
// for those behind the header, whoever reads that may want nothing else.
func (w *away) read(ctx context.Context, c cid.Cid) ([]byte, error) {
	r, done, err := w.a.remote(ctx, w.id, w.st, w.p)
	if errors.Is(err, errMoved) && w.m.UID == "" {
		return nil, err
	}
	if err != nil {
		return nil, w.a.cannotBring(ctx, w.id.Study, err)
	}
	defer done()
	var next []mesh.Want
	if i := slices.IndexFunc(w.m.Blocks, func(b cas.BlockRef) bool { return b.CID == c }); i >= len(headerOf(w.m)) {
		ahead := int64(0)
		for _, b := range w.m.Blocks[i+1:] {
			if ahead += b.Len; ahead > readAhead {
				break
			}
			next = append(next, wantsOf([]cas.BlockRef{b})...)
		}
	}
	data, err := r.read(ctx, c, next)
	if err != nil {
		return nil, w.a.cannotBring(ctx, w.id.Study, err)
	}
	return data, nil
}

// cannotBring says in a reader's words why something did not come.
func (a *Archive) cannotBring(ctx context.Context, study string, err error) error {
	var gone *Unavailable
	if ctx.Err() != nil || errors.As(err, &gone) {
		return err
	}
	if t, ok := a.queue.get(study); ok && t.State == Refused {
		return a.refused(t)
	}
	return &Unavailable{Reason: fmt.Sprintf("the study is held elsewhere and could not be brought: %s. It stays queued and is tried again by itself", err), RetryAfter: a.fetching().RetryMin}
}

func (a *Archive) refused(t TaskStatus) error {
	return &Unavailable{Reason: fmt.Sprintf("the study is held elsewhere and was refused: %s. Ask the trust, then read it again", t.LastError), RetryAfter: a.fetching().RetryMax}
}

// UIDs place the instance.
func (o *Object) UIDs() dicom.UIDs {
	return dicom.UIDs{Study: dicom.UID(o.id.Study), Series: dicom.UID(o.series), Instance: dicom.UID(o.sop),
		Class: dicom.UID(o.rec.Class), TransferSyntax: dicom.UID(o.rec.TransferSyntax)}
}

// Size is how many bytes were received.
func (o *Object) Size() int64 { return o.rec.Size }

// Manifest says where the instance's blocks and frames are.
func (o *Object) Manifest(ctx context.Context) (cas.InstanceManifest, error) {
	o.a.space.used(o.id)
	m, _, _, err := o.load(ctx)
	return m, err
}

// Open reads the instance as it was received. Only the blocks that are read
// are touched.
func (o *Object) Open(ctx context.Context) (*cas.Reader, error) {
	o.a.space.used(o.id)
	m, get, key, err := o.load(ctx)
	if err != nil {
		return nil, err
	}
	return m.Reader(ctx, get, key), nil
}

// load opens the manifest. Damage, here and in what is read with the getter, is
// repaired while the caller waits; if it cannot be, the error is *Unavailable.
func (o *Object) load(ctx context.Context) (m cas.InstanceManifest, get cas.Getter, key cas.Key, err error) {
	for {
		if key, err = o.a.keyFor(ctx, o.id); err != nil {
			return m, nil, key, err
		}
		ref := o.rec.Manifest
		get = reading{o.a.shelf(o.id, key), o.a, o.id, damage{Series: o.series, SOP: o.sop, Of: &ref}, o.away == nil, true, o.away}
		if o.away != nil && o.away.m.UID != "" {
			return o.away.m, get, key, nil
		}
		if m, err = cas.LoadInstance(ctx, get, key, ref); err == nil {
			return m, get, key, nil
		}
		// It may have been stored anew meanwhile, under a new key.
		rec, rerr := o.a.instanceOf(o.id, o.series, o.sop)
		if rerr != nil || rec.Manifest == ref {
			return m, nil, key, err
		}
		o.rec = rec
	}
}

// entry is an instance as a source lists it, here or not.
type entry struct {
	id       sourceID
	revision uint64 // in whose list it is; own: 0
	series   cas.SeriesEntry
	inst     cas.InstanceEntry
}

// Objects gives what ref names in reading order. A remote study is brought
// while it is read: what is here is given at once, and the rest as it comes.
// Errors: ErrNotFound, *Unavailable, or that of the store.
//
// Where the study, or an older revision of it, is here already, a trust that
// cannot be reached keeps nothing of that back; Caveats says what is missing.
func (a *Archive) Objects(ctx context.Context, ref Ref) iter.Seq2[*Object, error] {
	if ref.Instance != "" { // whatever is read of it, its header is looked into before
		return a.objects(ctx, ref, mesh.PushHeaders)
	}
	return a.objects(ctx, ref, mesh.PushManifests)
}

// Headers is Objects for whoever reads nothing but the headers: those of a remote
// study come in one piece.
func (a *Archive) Headers(ctx context.Context, ref Ref) iter.Seq2[*Object, error] {
	return a.objects(ctx, ref, mesh.PushHeaders)
}

func (a *Archive) objects(ctx context.Context, ref Ref, depth mesh.Depth) iter.Seq2[*Object, error] {
	return func(yield func(*Object, error) bool) {
		versions, err := a.versions(string(ref.Study))
		if err != nil {
			yield(nil, err)
			return
		}
		defer a.openFirst(ctx, versions, mesh.Push{Depth: depth, Series: string(ref.Series), Instance: string(ref.Instance)})()
		// Asked for before anything else, so that it comes even if nobody can
		// say now what it consists of.
		if err := a.read(string(ref.Study)); err != nil && !errors.Is(err, ErrNotFound) {
			yield(nil, err)
			return
		}
		given := make(map[string]bool)
		var gone error // why something is not given
		for i, v := range versions {
			if !goesOn(versions, i, len(given) > 0) {
				break
			}
			if ref.Instance != "" && len(given) > 0 {
				break
			}
			if v.bad && !v.here.Whole {
				gone = cmp.Or(gone, error(&Unavailable{Reason: v.badText(), RetryAfter: a.fetching().RetryMax}))
				continue
			}
			p := mesh.Push{Depth: depth, Series: string(ref.Series), Instance: string(ref.Instance)}
			entries, err := a.entries(ctx, v, ref, p)
			if err == nil {
				err = a.manifests(ctx, v, entries, p)
			}
			if err != nil && ctx.Err() == nil && warned(versions, v) {
				gone = cmp.Or(gone, err)
				continue
			}
			if err == nil && ref.Instance == "" {
				err = a.lookAhead(ctx, v, entries, p)
			}
			if err != nil && ctx.Err() == nil && warned(versions, v) && someHere(versions, v.group) {
				gone = cmp.Or(gone, err)
				continue
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, e := range entries {
				if given[e.inst.UID] {
					continue
				}
				o, err := a.object(ctx, v, e, p)
				if errors.Is(err, errKeptOut) {
					gone = &Unavailable{Reason: "this instance exists at another trust and is kept out here: its SOP Instance UID is taken by other bytes; `priormesh status` lists it", RetryAfter: a.fetching().RetryMax}
					continue
				}
				if err != nil && ctx.Err() == nil && warned(versions, v) && (someHere(versions, v.group) || a.distrusted.why(v.id, v.said.Revision) != "") {
					gone = cmp.Or(gone, err)
					break
				}
				if err != nil {
					yield(nil, err)
					return
				}
				given[e.inst.UID] = true
				if !yield(o, nil) {
					return
				}
			}
		}
		switch {
		case len(given) > 0:
		case gone != nil:
			yield(nil, gone) // what was asked for may be with whom cannot be reached
		default:
			yield(nil, ErrNotFound)
		}
	}
}

// openFirst begins to open what has never been opened of a study, before the
// queue does: what its reader waits for comes behind the first request then, and
// not in several after what nobody looks at.
func (a *Archive) openFirst(ctx context.Context, versions []version, p mesh.Push) (done func()) {
	for i, v := range versions {
		if a.running == nil || !goesOn(versions, i, versions[0].whole()) {
			break
		}
		if v.received() || v.bad || !v.told || a.sibling(v.id.Origin) {
			continue
		}
		manifest, err := parseRef(v.said.Manifest)
		if err != nil {
			continue
		}
		if _, err := a.Keys.Get(v.id.keyName()); !errors.Is(err, cas.ErrNoKey) {
			continue
		}
		if r, done := a.useRemote(ctx, v.id, v.said, manifest, p); r != nil {
			return done
		}
	}
	return func() {}
}

// version is one source of a study, and how it may be shown beside the others.
type version struct {
	id    sourceID
	own   bool
	here  source
	said  index.Study
	told  bool // said is what its origin says
	trust index.TrustID
	group int    // 0: it is shown with the first; else it names, or may name, another patient than one that is
	bad   bool   // its origin names no list of it that can be read, or what it gives contradicts itself: it is not brought
	why   string // it contradicts itself
}

func (v version) stranger() bool { return v.group != 0 }

// received says that this node received it, and has it.
func (v version) received() bool { return v.own && !v.lost() }

// whole says that a revision of it is whole here, the newest or not.
func (v version) whole() bool {
	return v.received() || !v.own && v.here.Whole && v.here.Manifest != nil
}

func (v version) badText() string {
	if v.why != "" {
		return contradictsText(v.trust, v.why)
	}
	return fmt.Sprintf("%s tells of this study and names no list of its contents that can be read: nothing of that can be shown. Ask %s to see to it", v.trust, v.trust)
}

// toBring says whether a version is brought: not what names another patient than
// what was received here. Where nothing was, nobody's word goes before another's, and
// each is kept by itself.
func toBring(versions []version, v version) bool {
	return !v.bad && (!v.stranger() || !versions[0].received())
}

// goesOn says whether a reader, who was given some of the versions before or none,
// is given of the next one too. Of people who are two only one is shown: whoever has
// what was asked for.
func goesOn(versions []version, next int, given bool) bool {
	v := versions[next]
	return !v.stranger() || !versions[0].received() && (!given || v.group == versions[next-1].group)
}

// someHere says whether something of a group is whole here.
func someHere(versions []version, group int) bool {
	return slices.ContainsFunc(versions, func(o version) bool { return o.group == group && o.whole() })
}

// warned says whether readers are told that of a version not all is here, so that
// they are given an older revision of it, or another version, whoever is out of reach.
func warned(versions []version, v version) bool {
	return v.behind() && (v.here.Whole || v.lost() || slices.ContainsFunc(versions, func(o version) bool {
		return o.id != v.id && toBring(versions, o)
	}))
}

// behind says that less is here than its origin has, or told of before this node
// lost it.
func (v version) behind() bool {
	return v.lost() || !v.own && v.told && (!v.here.Whole || v.here.Revision < v.said.Revision)
}

// lost says that this node has told that it received it, and has it no more: it
// was restored from an older backup. It is brought like anybody's from who holds a
// copy, and is this node's own again when all of it has come.
func (v version) lost() bool { return v.own && v.told && v.here.lost() }

// versions lists the versions of a study, those first that are shown together:
// images of two people are never given as one study.
func (a *Archive) versions(study string) ([]version, error) {
	sources, err := a.sourcesOf(study)
	if err != nil {
		return nil, err
	}
	if a.erase.under(sourceID{Study: study}) {
		return nil, ErrNotFound
	}
	for origin := range sources {
		if a.erase.under(sourceID{study, origin}) {
			delete(sources, origin)
		}
	}
	var out []version
	said, err := a.Index.Study(study)
	if err != nil {
		return nil, err
	}
	for _, st := range said {
		out = append(out, a.versionOf(st, sources[st.Author]))
		delete(sources, st.Author)
	}
	for origin, s := range sources { // here, though nobody says so (any more, or yet)
		v := version{id: sourceID{study, origin}, own: origin == a.Self, here: s}
		if v.own {
			if v.said, err = a.statement(v.id, s, nil); err != nil {
				return nil, err
			}
		} else {
			v.said.Mixed = true // of whom it is nobody says any more: it is given beside nothing
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		return nil, ErrNotFound
	}
	arrange(out)
	return out, nil
}

// versionOf is what an author says, beside what is here of it.
func (a *Archive) versionOf(st index.Authored[index.Study], here source) version {
	v := version{id: sourceID{st.Value.UID, st.Author}, own: st.Author == a.Self, here: here, said: st.Value, told: true, trust: st.Trust}
	if v.behind() {
		_, err := parseRef(v.said.Manifest)
		v.why = a.distrusted.why(v.id, v.said.Revision)
		v.bad = err != nil || v.why != ""
	}
	if !v.own {
		v.said.Mixed = v.said.Mixed || here.Mixed || a.foreseen.mixedAt(v.id, v.said.Revision)
	}
	return v
}

// before orders versions of a study: what was received here, what is whole here, by
// what was counted, and then what is only told of, by what is said. Nobody goes before
// what is here by a word.
func (v version) before(o version) int {
	rank := func(v version) (rank, instances int) {
		switch {
		case v.received():
			return 0, 0
		case v.whole():
			return 1, v.here.Instances
		case v.bad:
			return 3, 0
		}
		return 2, v.said.Instances
	}
	x, instances := rank(v)
	y, others := rank(o)
	return cmp.Or(cmp.Compare(x, y), cmp.Compare(others, instances), v.id.Origin.Compare(o.id.Origin))
}

// arrange orders versions and gives each to the first group in which none may be
// about another patient: two people may each agree with a version that says little.
// Groups stay together.
func arrange(versions []version) {
	slices.SortFunc(versions, version.before)
	group(versions)
}

// group is arrange in the order in which they are.
func group(versions []version) {
	groups := 0
	for i := range versions {
		g := 0
		for ; g < groups; g++ {
			if !slices.ContainsFunc(versions[:i], func(o version) bool { return o.group == g && strangers(o.said, versions[i].said) }) {
				break
			}
		}
		versions[i].group = g
		groups = max(groups, g+1)
	}
	slices.SortStableFunc(versions, func(x, y version) int { return cmp.Compare(x.group, y.group) })
}

// strangers says of two statements on one Study Instance UID that they may be
// about two people.
func strangers(x, y index.Study) bool {
	return x.Mixed || y.Mixed || !noContradiction(x, y)
}

// Caveats says for people what a reader of a study is not given.
func (a *Archive) Caveats(study string) ([]string, error) {
	versions, err := a.versions(study)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for _, v := range versions {
		switch {
		case v.stranger() && versions[0].received():
			out = append(out, fmt.Sprintf("%s has a study under this UID that names, or may name, another patient: it is not shown", v.trust))
		case v.stranger():
			out = append(out, fmt.Sprintf("%s has a study under this UID that names, or may name, another patient than %s's: the two are never shown together; compare the patient in the images", v.trust, versions[0].trust))
		case v.bad:
			out = append(out, v.badText())
		case v.lost():
			out = append(out, a.lostText(v)+". "+a.lostAdvice(v))
		case warned(versions, v):
			out = append(out, fmt.Sprintf("%s has told of more of this study than is here yet", v.trust))
		}
		if told, err := a.lostPart(v.id, v.here); err != nil {
			return nil, err
		} else if told > 0 {
			text := fmt.Sprintf("of %d instances of this study that this node had received it has %d since it was restored from an older backup", told, v.here.Instances)
			holders, err := a.fuller(v.id, v.here)
			if err != nil {
				return nil, err
			}
			if len(holders) > 0 {
				text += "; " + joined(holders) + " has a copy with more"
			}
			out = append(out, text+". Send it here again")
		}
		if v.told && v.said.Mixed && !v.stranger() {
			out = append(out, fmt.Sprintf("instances of this study, as %s has it, name several patients: look whom each one names", v.trust))
		}
		if a.damage.ill(v.id) {
			out = append(out, fmt.Sprintf("part of the study as %s has it is damaged on this node's disk; %s", v.trust, a.repairText(v.id)))
		}
		if n := a.keptOut(v); n > 0 {
			what := fmt.Sprintf("%d instances of the study as %s has it are not shown: their SOP Instance UIDs are", n, v.trust)
			if n == 1 {
				what = fmt.Sprintf("1 instance of the study as %s has it is not shown: its SOP Instance UID is", v.trust)
			}
			out = append(out, what+" taken here by other bytes")
		}
	}
	return out, nil
}

func joined(trusts []index.TrustID) string {
	var out []string
	for _, t := range trusts {
		out = append(out, string(t))
	}
	return strings.Join(out, ", ")
}

// lostText says of what a restored node has lost that it has.
func (a *Archive) lostText(v version) string {
	return fmt.Sprintf("this node has received this study (%d instances) and has nothing of it since it was restored from an older backup", v.said.Instances)
}

// lostAdvice says where that may come from.
func (a *Archive) lostAdvice(v version) string {
	if holders := a.returnsFrom(v.id, v.said.Revision); len(holders) > 0 {
		return fmt.Sprintf("Copies are said to be at %s, from where it comes back", a.trustsOf(holders))
	}
	return "Nobody is known to hold a copy: send it here again"
}

// entries lists what a source has of ref, in reading order. A whole revision
// that is here goes before a newer one that is not, unless what is asked for is
// only in the newer. If the list of a remote study is not here yet it is brought
// first, or the error is ErrNotListed.
func (a *Archive) entries(ctx context.Context, v version, ref Ref, p mesh.Push) ([]entry, error) {
	id, bring := v.id, p.Depth != mesh.PushNothing
	if v.own && !v.lost() {
		return a.ownEntries(id, ref)
	}
	s, err := a.source(id)
	if err != nil && !errors.Is(err, errNoRecord) {
		return nil, err
	}
	st, told := a.statementOf(id)
	if s.Whole && s.Manifest != nil {
		out, err := a.listed(ctx, id, s.Revision, *s.Manifest, ref, true, bring)
		if err == nil && s.Beyond > 0 {
			out, err = a.beyond(id, ref, out)
		}
		if len(out) > 0 || err != nil || !told || st.Revision <= s.Revision {
			return out, err
		}
	}
	if !told || v.bad {
		return nil, nil
	}
	manifest, err := parseRef(st.Manifest)
	if err != nil {
		return nil, err
	}
	out, err := a.listed(ctx, id, st.Revision, manifest, ref, false, bring)
	if !cas.Damaged(err) && !errors.Is(err, cas.ErrNoKey) {
		return out, err
	}
	if !bring {
		return nil, ErrNotListed
	}
	if err := a.bringLists(ctx, id, st, p); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		reason := fmt.Sprintf("the study is held elsewhere and its contents cannot be listed now: %s", err)
		if v.lost() {
			reason = fmt.Sprintf("%s, and its contents cannot be listed now: %s. %s", a.lostText(v), err, a.lostAdvice(v))
		}
		return nil, &Unavailable{Reason: reason, RetryAfter: a.fetching().RetryMin}
	}
	return a.listed(ctx, id, st.Revision, manifest, ref, false, bring)
}

// beyond adds to what the list of a copy names what an older revision had and this one
// does not name: its origin came back from an old backup, and has lost it.
func (a *Archive) beyond(id sourceID, ref Ref, listed []entry) ([]entry, error) {
	here, err := a.ownEntries(id, ref)
	if err != nil {
		return nil, err
	}
	named := make(map[string]bool, len(listed))
	for _, e := range listed {
		named[e.inst.UID] = true
	}
	for _, e := range here {
		if !named[e.inst.UID] {
			listed = append(listed, e)
		}
	}
	return listed, nil
}

// statementOf is what a source's origin says of it. What cannot be read is not
// told: whoever acts on it tries again.
func (a *Archive) statementOf(id sourceID) (index.Study, bool) {
	said, err := a.Index.Study(id.Study)
	if err != nil {
		a.Log.Error("what is told of a study cannot be read", "study", short(id.Study), "error", err)
	}
	for _, st := range said {
		if st.Author == id.Origin {
			return st.Value, true
		}
	}
	return index.Study{}, false
}

// listed reads a source's manifests from the store. here says that they are all
// there unless they are damaged; with wait, that is repaired first.
func (a *Archive) listed(ctx context.Context, id sourceID, revision uint64, manifest cas.Ref, ref Ref, here, wait bool) ([]entry, error) {
	a.space.used(id)
	open := a.keyFor
	if !here || !wait {
		open = func(context.Context, sourceID) (cas.Key, error) { return a.Keys.Get(id.keyName()) }
	}
	key, err := open(ctx, id)
	if err != nil {
		return nil, err
	}
	place := damage{Of: &manifest}
	study, err := cas.LoadStudy(ctx, a.reading(id, key, place, here, wait), key, manifest)
	if err == nil {
		err = a.contradicting(id, revision, ofStudy(study, id.Study))
	}
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, se := range study.Series {
		if ref.Series != "" && se.UID != string(ref.Series) {
			continue
		}
		place.Series = se.UID
		m, err := cas.LoadSeries(ctx, a.reading(id, key, place, here, wait), key, se.Manifest)
		if err == nil {
			err = a.contradicting(id, revision, ofSeries(m, se))
		}
		if err != nil {
			return nil, err
		}
		for _, ie := range m.Instances {
			if ref.Instance == "" || ie.UID == string(ref.Instance) {
				out = append(out, entry{id: id, revision: revision, series: se, inst: ie})
			}
		}
	}
	return out, nil
}

// ownEntries lists what the catalogue has: of what was received here that is all, the
// unpublished included.
func (a *Archive) ownEntries(id sourceID, ref Ref) ([]entry, error) {
	if ref.Instance != "" {
		i, err := a.instanceOf(id, string(ref.Series), string(ref.Instance))
		if errors.Is(err, errNoRecord) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []entry{{id: id, series: cas.SeriesEntry{UID: string(ref.Series)},
			inst: cas.InstanceEntry{UID: string(ref.Instance), Attrs: i.Attrs, Size: i.Size, Manifest: i.Manifest}}}, nil
	}
	series, err := a.seriesOf(id)
	if err != nil {
		return nil, err
	}
	var out []entry
	for _, s := range series {
		if ref.Series != "" && s.uid != string(ref.Series) {
			continue
		}
		for _, i := range s.instances {
			out = append(out, entry{id: id, series: cas.SeriesEntry{UID: s.uid, Attrs: s.raw}, inst: i})
		}
	}
	return out, nil
}

var errKeptOut = errors.New("kept out: its UID is taken here by other bytes")

// manifests has those of entries that are not here brought, all at once, and
// their headers if p says so.
func (a *Archive) manifests(ctx context.Context, v version, entries []entry, p mesh.Push) error {
	if !v.behind() {
		return nil
	}
	for _, e := range entries {
		rec, err := a.instanceOf(e.id, e.series.UID, e.inst.UID)
		if err == nil && rec.Manifest == e.inst.Manifest {
			continue
		}
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		if err := a.bringLists(ctx, v.id, v.said, p); err != nil && !errors.Is(err, errMoved) {
			return a.cannotBring(ctx, v.id.Study, err)
		}
		return nil
	}
	return nil
}

// object is an entry's instance. One that is not all here is read where it is
// held.
func (a *Archive) object(ctx context.Context, v version, e entry, p mesh.Push) (*Object, error) {
	o := objectOf(a, e)
	here := func() (bool, error) {
		rec, err := a.instanceOf(e.id, e.series.UID, e.inst.UID)
		if err == nil {
			o.rec = rec
			return rec.Manifest == e.inst.Manifest, nil
		}
		if !errors.Is(err, errNoRecord) {
			return false, err
		}
		out, err := a.conflicting(e.id, e.series.UID, e.inst.UID)
		if err == nil && out {
			err = errKeptOut
		}
		return false, err
	}
	if ok, err := here(); ok || err != nil {
		return o, err
	}
	if o.reach(v, e, p) {
		m, err := o.Manifest(ctx)
		if err == nil {
			err = a.contradicting(e.id, e.revision, ofInstance(m, e.inst))
		}
		if err == nil {
			var taken bool
			if taken, err = a.takenByOther(e.id, m); taken && err == nil {
				err = errKeptOut
			}
		}
		if err == nil {
			err = o.headerAgrees(ctx, v, e.revision, m)
		}
		if !errors.Is(err, errMoved) {
			o.away.m = m
			o.rec = instance{Class: m.Class, TransferSyntax: m.TransferSyntax, Size: m.Size, SHA256: m.SHA256[:], Manifest: e.inst.Manifest, Attrs: e.inst.Attrs}
			return o, err
		}
		o.away = nil // the holder is ahead of the index: what it has is on its way
	}
	return o, a.await(ctx, e.id.Study, here)
}

// headerAgrees looks into the header of an instance that is read where it is held: its
// reader is given nothing of it before.
func (o *Object) headerAgrees(ctx context.Context, v version, revision uint64, m cas.InstanceManifest) error {
	_, get, key, err := o.load(ctx)
	if err != nil {
		return err
	}
	r := m.Reader(ctx, get, key)
	defer r.Close()
	same, err := o.a.agrees(r, m, o.id.Study, o.series, v.said)
	if err == nil && !same {
		o.a.foreseen.noteMixed(o.id, revision)
	}
	return o.a.contradicting(o.id, revision, err)
}

func objectOf(a *Archive, e entry) *Object {
	return &Object{a: a, id: e.id, series: e.series.UID, sop: e.inst.UID}
}

// reach has an instance that is not here read where it is, and says whether that
// can be.
func (o *Object) reach(v version, e entry, p mesh.Push) bool {
	st, told := o.a.statementOf(e.id)
	if !told || v.received() || o.a.sibling(e.id.Origin) {
		return false
	}
	o.rec = instance{Manifest: e.inst.Manifest}
	o.away = &away{a: o.a, id: e.id, st: st, p: p}
	return true
}

// lookAhead finds out how many instances of a version that is being brought will
// be kept out, or were and are not counted with it yet: Caveats says so before the
// first of the others is given.
func (a *Archive) lookAhead(ctx context.Context, v version, entries []entry, p mesh.Push) error {
	if v.received() || v.here.Whole && !v.behind() {
		return nil
	}
	var taken []entry
	err := a.db.View(func(txn *badger.Txn) error {
		taken = nil
		for _, e := range entries {
			first, err := getRecord[sop](txn, append([]byte{tableSOP}, e.inst.UID...))
			if err == nil && first.source() != v.id {
				taken = append(taken, e)
			}
			if err != nil && !errors.Is(err, errNoRecord) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	out := 0
	for _, e := range taken {
		if _, err := a.instanceOf(v.id, e.series.UID, e.inst.UID); err == nil {
			continue // the same bytes
		}
		known, err := a.conflicting(v.id, e.series.UID, e.inst.UID)
		if o := objectOf(a, e); err == nil && !known && o.reach(v, e, p) {
			var m cas.InstanceManifest
			if m, err = o.Manifest(ctx); err == nil {
				known, err = a.takenByOther(v.id, m)
			}
			if errors.Is(err, errMoved) {
				known, err = false, nil // what the holder has now is on its way
			}
		}
		if err != nil {
			return err
		}
		if known {
			out++
		}
	}
	if p.Series != "" { // of the rest of the study others may have found out more
		out = max(out, a.foreseen.of(v.id))
	}
	a.foreseen.note(v.id, out)
	return nil
}

// keptOut is how many instances of a version are not shown because their UIDs are
// taken by other bytes.
func (a *Archive) keptOut(v version) int {
	if v.here.Whole && !v.behind() {
		return v.here.Conflicts
	}
	return max(v.here.Conflicts, a.foreseen.of(v.id))
}

// foreseen is what readers have found out of versions that are being brought.
type foreseen struct {
	mu    sync.Mutex
	out   map[sourceID]int
	mixed map[sourceID]uint64 // the revision of which an instance names another patient than its study
}

// maxForeseen bounds each; it is found out again by who reads.
const maxForeseen = 1024

func (f *foreseen) note(id sourceID, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.out, id)
	if n == 0 {
		return
	}
	if f.out == nil || len(f.out) >= maxForeseen {
		f.out = make(map[sourceID]int)
	}
	f.out[id] = n
}

func (f *foreseen) of(id sourceID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out[id]
}

func (f *foreseen) noteMixed(id sourceID, revision uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mixed == nil || len(f.mixed) >= maxForeseen {
		f.mixed = make(map[sourceID]uint64)
	}
	f.mixed[id] = revision
}

func (f *foreseen) mixedAt(id sourceID, revision uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.mixed[id]
	return ok && at == revision
}

// takenByOther says whether an instance of a copy will be kept out because its
// UID is taken here by other bytes; see transfer.commit.
func (a *Archive) takenByOther(id sourceID, m cas.InstanceManifest) (taken bool, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		first, err := getRecord[sop](txn, append([]byte{tableSOP}, m.UID...))
		taken = err == nil && !bytes.Equal(first.SHA256, m.SHA256[:]) && first.source() != id
		if errors.Is(err, errNoRecord) {
			return nil
		}
		return err
	})
	return taken, err
}

// await waits until done says so. It makes sure that the study is being
// brought, and gives up when that fails or stalls.
func (a *Archive) await(ctx context.Context, study string, done func() (bool, error)) error {
	if ok, err := done(); ok || err != nil {
		return err
	}
	if err := a.read(study); err != nil {
		return err
	}
	asked, _ := a.queue.get(study)
	for {
		changed := a.news.next(study)
		// In this order: what a finished task brought was there before the task went.
		t, queued := a.queue.get(study)
		if ok, err := done(); ok || err != nil {
			return err
		}
		switch {
		case queued && t.State == Refused:
			return a.refused(t)
		case !queued:
			reason := "the study is listed, but what was asked for is not in what its origin gave; ask again shortly"
			if a.queue.cancelled(study) {
				reason = "the study is held elsewhere and was taken off the fetch queue; to read it again asks for it again"
			}
			return &Unavailable{Reason: reason, RetryAfter: a.fetching().RetryMin}
		}
		if t.Attempts > asked.Attempts {
			return &Unavailable{
				Reason:     fmt.Sprintf("the study is held elsewhere and could not be brought: %s. It stays queued and is tried again by itself", t.LastError),
				RetryAfter: max(t.NotBefore.Sub(a.Now()), time.Second),
			}
		}
		timer := time.NewTimer(a.fetching().ReadThrough)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-changed:
			timer.Stop()
		case <-timer.C:
			if now, _ := a.queue.get(study); now.Arrived > t.Arrived {
				continue // a large instance, or a slow line
			}
			return &Unavailable{
				Reason:     fmt.Sprintf("the study is held elsewhere and nothing of it arrived for %s. It stays queued and is tried again by itself", a.fetching().ReadThrough),
				RetryAfter: a.fetching().RetryMin,
			}
		}
	}
}

// conflicting says whether an instance of a copy was kept out.
func (a *Archive) conflicting(id sourceID, series, sopUID string) (bool, error) {
	return a.hasRecord(id.instanceKey(tableConflict, series, sopUID))
}

// KeptOut is an instance of another trust's study that was kept out.
type KeptOut struct {
	Study, Instance string
	Origin          index.NodeID
}

// Conflicts lists what was kept out, most first in key order.
func (a *Archive) Conflicts(most int) ([]KeptOut, error) {
	var out []KeptOut
	err := a.db.View(func(txn *badger.Txn) error {
		out = nil
		return eachRecord(txn, []byte{tableConflict}, func(k []byte, _ int64) error {
			id, rest, ok := parseSourceID(k)
			if _, uid, ok2 := bytes.Cut(rest, []byte{0}); ok && ok2 && len(out) < most {
				out = append(out, KeptOut{Study: id.Study, Instance: string(uid), Origin: id.Origin})
			}
			return nil
		})
	})
	return out, err
}

// Counts are how many studies are here.
func (a *Archive) Counts() (own, copies int, err error) {
	err = a.db.View(func(txn *badger.Txn) error {
		own, copies = 0, 0
		return eachRecord(txn, []byte{tableSource}, func(k []byte, s source) error {
			id, _, ok := parseSourceID(k)
			switch {
			case !ok:
			case id.Origin == a.Self && s.lost():
			case id.Origin == a.Self:
				own++
			case s.Whole:
				copies++
			}
			return nil
		})
	})
	return own, copies, err
}

// Holds says, before the archive is opened, whether its catalogue has studies
// that were received here, and copies of others'.
func Holds(db *badger.DB, self index.NodeID) (own, copies bool, err error) {
	enough := errors.New("both")
	err = db.View(func(txn *badger.Txn) error {
		return eachRecord(txn, []byte{tableSource}, func(k []byte, s source) error {
			id, _, ok := parseSourceID(k)
			own = own || ok && id.Origin == self
			copies = copies || ok && id.Origin != self && s.Whole
			if own && copies {
				return enough
			}
			return nil
		})
	})
	if errors.Is(err, enough) {
		err = nil
	}
	return own, copies, err
}
