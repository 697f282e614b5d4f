package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomweb"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// maxRelational bounds how many studies one search for series or instances
// looks into when it names no study (a relational query, PS3.18 10.6.1.1).
const maxRelational = 100

// web shows the archive to dicomweb.
type web struct {
	archive *archive.Archive
	silence func() []string
	pages   *pages
	turns   *turns
}

func (w web) Completeness(_ context.Context, ref dicomweb.Ref) []string {
	out := w.silence()
	if ref.Study == "" {
		return out
	}
	return slices.Concat(w.caveats(string(ref.Study)), out)
}

// caveats says what a reader of a study is not given.
func (w web) caveats(study string) []string {
	out, err := w.archive.Caveats(study)
	if err != nil {
		return []string{"what is missing of this study could not be found out; ask again"}
	}
	return out
}

func (w web) Store(ctx context.Context, study dicom.UID, r io.Reader) func() (dicomweb.Stored, error) {
	finish := w.archive.Receive(ctx, r, archive.IngestOptions{Study: study, Arrival: true})
	return func() (dicomweb.Stored, error) {
		got, err := finish()
		return dicomweb.Stored{UIDs: got.UIDs, Duplicate: got.Duplicate}, webError(err)
	}
}

// storeAway is when to ask again while a bucket cannot be reached.
const storeAway = 30 * time.Second

// webError says an error of the archive in DICOMweb's words.
func webError(err error) error {
	var (
		conflict *archive.Conflict
		gone     *archive.Unavailable
		query    *archive.BadQuery
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &conflict):
		return &dicomweb.Conflict{Instance: conflict.Instance}
	case errors.As(err, &gone):
		return &dicomweb.Unavailable{Reason: gone.Reason, RetryAfter: gone.RetryAfter}
	case errors.Is(err, archive.ErrNotFound):
		return dicomweb.ErrNotFound
	case noSpace(err):
		return dicomweb.ErrNoSpace
	case errors.Is(err, cas.ErrUnavailable):
		return &dicomweb.Unavailable{Reason: "the store of this node cannot be reached now; ask again shortly", RetryAfter: storeAway}
	}
	var limit *index.LimitError
	if errors.As(err, &limit) {
		return dicomweb.ErrLimit{What: limit.What, Limit: int64(limit.Limit)}
	}
	if errors.As(err, &query) {
		return &dicomweb.BadQuery{Reason: query.Error()}
	}
	if why, ok := refusal(err); ok {
		code := dicomweb.CodeCannotUnderstand
		var wrong *archive.WrongStudy
		if errors.As(err, &wrong) {
			code = dicomweb.CodeWrongStudy
		}
		return &dicomweb.Refused{Reason: why, Code: code}
	}
	return err
}

func noSpace(err error) bool {
	return errors.Is(err, cas.ErrDiskFull) || errors.Is(err, syscall.ENOSPC)
}

// refusal says whether an error is the sender's: the instance as it is will
// never be taken.
func refusal(err error) (why string, ok bool) {
	if archive.Rejected(err) {
		return err.Error(), true
	}
	return "", false
}

func (w web) Objects(ctx context.Context, ref dicomweb.Ref) iter.Seq2[dicomweb.Object, error] {
	return objects(ctx, w.archive.Objects(ctx, archive.Ref(ref)))
}

func (w web) Headers(ctx context.Context, ref dicomweb.Ref) iter.Seq2[dicomweb.Object, error] {
	return objects(ctx, w.archive.Headers(ctx, archive.Ref(ref)))
}

func objects(ctx context.Context, all iter.Seq2[*archive.Object, error]) iter.Seq2[dicomweb.Object, error] {
	return func(yield func(dicomweb.Object, error) bool) {
		for o, err := range all {
			if err != nil {
				yield(nil, webError(err))
				return
			}
			if !yield(object{ctx, o}, nil) {
				return
			}
		}
	}
}

type object struct {
	ctx context.Context
	*archive.Object
}

func (o object) Open(ctx context.Context) (io.ReadSeekCloser, error) {
	r, err := o.Object.Open(ctx)
	if err != nil {
		return nil, webError(err)
	}
	return content{r}, nil
}

// content says in DICOMweb's words why an instance cannot be read on.
type content struct{ *cas.Reader }

func (c content) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	return n, webError(err)
}

func (c content) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(p, off)
	return n, webError(err)
}

func (o object) Layout() *dicomweb.Layout {
	m, err := o.Manifest(o.ctx)
	if err != nil || o.UIDs().TransferSyntax.Deflated() {
		return nil // Open will say why
	}
	l := &dicomweb.Layout{HeaderLen: m.HeaderLen}
	if p := m.Pixel; p != nil {
		l.Pixels, l.Value, l.Encapsulated, l.NumFrames = true, dicom.Range{Off: p.Off, Len: p.Len}, p.Encapsulated, p.NumFrames()
		l.Frame = func(i int) (dicom.Frame, error) {
			parts, bit, err := p.Frame(i)
			if err != nil {
				return dicom.Frame{}, err
			}
			f := dicom.Frame{Parts: make([]dicom.Range, len(parts))}
			for j, r := range parts {
				f.Parts[j] = dicom.Range(r)
			}
			if !p.Encapsulated && p.Run.Bits%8 != 0 {
				f.BitOffset, f.Bits = int64(bit), p.Run.Bits
			}
			return f, nil
		}
	}
	return l
}

func (w web) Query(ctx context.Context, q dicomweb.Query) (dicomweb.Result, error) {
	iq, rest, warnings := studyQuery(q, w.archive.Self)
	var people people
	var undated []string
	err := w.turns.take(ctx, func(ctx context.Context) (err error) {
		if people, err = peopleOf(ctx, w.archive, iq); err != nil {
			return err
		}
		undated, err = dateless(ctx, w.archive.Index, iq)
		return err
	})
	if err != nil {
		return dicomweb.Result{}, webError(err)
	}
	warnings = slices.Concat(warnings, people.said, undated)
	if q.Level == dicomweb.Studies {
		for _, m := range rest {
			warnings = append(warnings, unsupported(m))
		}
		iq.Limit = q.Limit
		key := pageOf(iq)
		iq.Offset, iq.After = q.Offset, ""
		if after, ok := w.pages.after(key, q.Offset); ok {
			iq.Offset, iq.After = 0, after
		}
		found, ans, err := w.studies(ctx, iq)
		if err != nil {
			return dicomweb.Result{}, webError(err)
		}
		end := q.Offset + len(ans.Studies)
		if ans.More || len(ans.Studies) == q.Limit {
			w.pages.ended(key, end, ans.Next)
		}
		if ans.Full {
			warnings = append(warnings, fmt.Sprintf("%s; go on with offset=%d", fullPage(ans), end))
		}
		said := slices.Concat(noCodes(iq.Modalities, found), told(found))
		res := dicomweb.Result{More: ans.More, Warnings: slices.Concat(incomplete(warnings, ans), said)}
		for _, f := range found {
			res.Datasets = append(res.Datasets, studyDataset(f))
		}
		return res, nil
	}
	known := slices.DeleteFunc(rest, func(m dicomweb.Match) bool {
		if supported(q.Level, m) {
			return false
		}
		warnings = append(warnings, unsupported(m))
		return true
	})
	iq.Limit = maxRelational
	if q.Ref.Study != "" {
		iq.StudyUIDs = []string{string(q.Ref.Study)}
	}
	found, ans, err := w.studies(ctx, iq)
	if err != nil {
		return dicomweb.Result{}, webError(err)
	}
	if ans.More {
		warnings = append(warnings, fmt.Sprintf("only the newest %d matching studies were looked into; narrow the search", len(ans.Studies)))
	}
	asked := iq.Modalities
	for _, m := range known {
		if len(m.Path) == 1 && m.Tag() == dicom.TagModality {
			asked = slices.Concat(asked, m.Values)
		}
	}
	warnings = slices.Concat(incomplete(warnings, ans), noCodes(asked, found), told(found))
	unlisted, unread, unplaced := 0, 0, 0
	var partial []string // what a reader of these studies is not given
	var all []dicom.Dataset
	want := q.Offset + q.Limit + 1
	for _, f := range found {
		if f.Apart {
			continue // what is listed is another patient's
		}
		listed, err := w.archive.List(ctx, archive.Ref(dicomweb.Ref{Study: dicom.UID(f.UID), Series: q.Ref.Series}), q.Ref.Study != "")
		if errors.Is(err, archive.ErrNotListed) {
			unlisted++
			continue
		}
		if q.Ref.Study == "" && errors.Is(err, archive.ErrNotFound) {
			continue // being erased, since just now
		}
		if err != nil && q.Ref.Study == "" && ctx.Err() == nil { // one study keeps no other back
			unread++
			continue
		}
		if err != nil {
			return dicomweb.Result{}, webError(err)
		}
		if q.Ref.Study == "" { // else it is said with the answer, see Completeness
			if caveats := w.caveats(f.UID); len(caveats) > 0 {
				partial = append(partial, f.UID+": "+strings.Join(caveats, "; "))
			}
		}
		rows, left := levelDatasets(q.Level, f, listed)
		unplaced += left
		for _, ds := range rows {
			if dicomweb.Matches(ds, known...) {
				all = append(all, ds)
			}
		}
		if len(all) >= want {
			break
		}
	}
	if len(partial) > 0 {
		warnings = append(warnings, fmt.Sprintf("of %s not all is listed, or it has to be looked at: %s", counted(len(partial), "study", "studies"), strings.Join(partial[:min(len(partial), namedVersions)], ". ")))
	}
	if unplaced > 0 {
		warnings = append(warnings, counted(unplaced, "instance is", "instances are")+" left out: nobody tells of them now, or they came while this was answered, so that it is not known whose they are. Ask again")
	}
	if unlisted > 0 {
		warnings = append(warnings, fmt.Sprintf("%d matching studies are held by other trusts and their series have not been listed here yet; ask for one by its Study Instance UID", unlisted))
	}
	if unread > 0 {
		warnings = append(warnings, counted(unread, "matching study is left out: its list of contents cannot be read here now, or its trust gives none", "matching studies are left out: their lists of contents cannot be read here now, or their trusts give none")+"; ask for one by its Study Instance UID, and the answer says why")
	}
	if q.Ref.Study != "" && len(found) == 0 {
		return dicomweb.Result{Warnings: warnings}, nil
	}
	res := dicomweb.Result{Warnings: warnings}
	if q.Offset < len(all) {
		all = all[q.Offset:]
		res.More = len(all) > q.Limit
		res.Datasets = all[:min(len(all), q.Limit)]
	}
	return res, nil
}

func (w web) studies(ctx context.Context, q index.Query) (found []archive.Found, ans index.Answer, err error) {
	err = w.turns.take(ctx, func(ctx context.Context) (err error) {
		found, ans, err = w.archive.Studies(ctx, q)
		return err
	})
	return found, ans, err
}

func incomplete(warnings []string, ans index.Answer) []string {
	if ans.Incomplete {
		warnings = append(warnings, "the search was given up before every record was looked at; narrow it")
	}
	return warnings
}

// fullPage says why an answer has fewer studies than were asked for.
func fullPage(ans index.Answer) string {
	return fmt.Sprintf("the answer ends after %d studies, because what is known of them is over %d MiB: there are more", len(ans.Studies), index.MaxPageSize>>20)
}

func unsupported(m dicomweb.Match) string {
	return fmt.Sprintf("matching by %s is not supported and was ignored", m.Tag())
}

// modalities are DICOM's codes for them (PS3.16 CID 29 and 33, PS3.3 C.7.3.1.1.1), with those of before.
var modalities = strings.Fields(`ANN AR AS ASMT AU BDUS BI BMD CD CF CFM CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG EPS ES
	FA FID FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX
	REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC`)

// meant are codes for what people call modalities.
var meant = map[string]string{
	"MRI": "MR", "MRT": "MR", "MRA": "MR", "FMRI": "MR", "CAT": "CT", "CTA": "CT", "CBCT": "CT", "ULTRASOUND": "US", "USS": "US", "ECHO": "US", "SONOGRAPHY": "US",
	"XR": "CR, or DX,", "XRAY": "CR, or DX,", "X-RAY": "CR, or DX,", "RADIOGRAPH": "CR, or DX,", "MAMMO": "MG", "MAMMOGRAM": "MG", "MAMMOGRAPHY": "MG", "MMG": "MG",
	"PET": "PT", "PETCT": "PT", "PET-CT": "PT", "PET/CT": "PT", "SPECT": "NM", "NUC": "NM", "NUCLEAR": "NM", "ANGIO": "XA", "ANGIOGRAPHY": "XA", "DSA": "XA",
	"FLUORO": "RF", "FLUOROSCOPY": "RF", "ENDOSCOPY": "ES", "EKG": "ECG", "DEXA": "BMD", "DXA": "BMD", "OPG": "PX", "REPORT": "SR",
}

// noCodes says which modalities that are asked for are no codes: nobody has them, most likely. A device may have
// one of its own all the same, and what was found by it needs no word.
func noCodes(asked []string, found []archive.Found) []string {
	var said []string
	for _, v := range asked {
		code := strings.ToUpper(strings.TrimSpace(v))
		if code == "" || strings.ContainsAny(v, "*?") || slices.Contains(modalities, code) || len(said) == 4 ||
			slices.ContainsFunc(found, func(f archive.Found) bool { return slices.Contains(f.Modalities, v) }) {
			continue
		}
		is := "such are CT, MR, US, CR, DX, MG, NM, PT, XA and RF"
		if m := meant[code]; m != "" {
			is = m + " is"
		}
		said = append(said, fmt.Sprintf("%.16s is no modality code of DICOM: %s", v, is))
	}
	if len(said) == 0 {
		return nil
	}
	return []string{strings.Join(said, "; ")}
}

// studyQuery turns what matches at study level into an index query; rest is
// what it has no field for.
func studyQuery(q dicomweb.Query, self index.NodeID) (iq index.Query, rest []dicomweb.Match, warnings []string) {
	iq.Fuzzy = q.Fuzzy
	for _, m := range q.Match {
		if len(m.Values) == 0 {
			continue // universal matching
		}
		v := m.Values[0]
		var bad bool
		if len(m.Path) > 1 {
			if t := m.Tag(); m.Path[0] == dicom.TagIssuerOfAccessionNumber && len(m.Path) == 2 && (t == dicom.TagLocalNamespaceEntityID || t == dicom.TagUniversalEntityID) {
				iq.AccessionIssuer = v
				continue
			}
			rest = append(rest, m)
			continue
		}
		switch m.Tag() {
		case dicom.TagTimezoneOffsetFromUTC:
			// The zone that dates and times are asked for in; it matches nothing (PS3.4 C.4.1.1.3.1).
			if iq.Zone, bad = v, !index.IsZone(v); bad {
				iq.Zone = ""
			}
		case tagBodyPart:
			if q.Level != dicomweb.Studies {
				rest = append(rest, m)
				continue
			}
			iq.BodyPart = v
		case tagAvailability:
			if v != "ONLINE" || q.Level != dicomweb.Studies {
				rest = append(rest, m)
				continue
			}
			iq.HeldBy = self
		case dicom.TagStudyInstanceUID:
			iq.StudyUIDs = m.Values
		case dicom.TagPatientID:
			iq.PatientID = v
		case dicom.TagIssuerOfPatientID:
			iq.Issuer = v
		case dicom.TagPatientName:
			iq.Name = v
		case dicom.TagPatientBirthDate:
			iq.BirthDate, bad = dateRange(v)
		case dicom.TagPatientSex:
			iq.Sex = v
		case dicom.TagStudyDate:
			iq.Date, bad = dateRange(v)
		case dicom.TagStudyTime:
			iq.Time, bad = timeRange(v)
		case dicom.TagAccessionNumber:
			iq.Accession = v
		case tagModalitiesInStudy:
			for _, v := range m.Values { // a CS has no small letters (PS3.5 6.2)
				iq.Modalities = append(iq.Modalities, strings.ToUpper(v))
			}
		case dicom.TagStudyDescription:
			iq.Description = v
		case dicom.TagStudyID:
			iq.StudyID = v
		case dicom.TagReferringPhysicianName:
			iq.Referring = v
		default:
			rest = append(rest, m)
		}
		if bad {
			warnings = append(warnings, fmt.Sprintf("%s is not a date, a time, a range of them or a timezone offset, and was ignored", m.Tag()))
		}
	}
	byNHSNumber(&iq)
	return iq, rest, warnings
}

const (
	tagModalitiesInStudy    dicom.Tag = 0x00080061
	tagAvailability         dicom.Tag = 0x00080056
	tagBodyPart             dicom.Tag = 0x00180015
	tagSeriesInStudy        dicom.Tag = 0x00201206
	tagInstancesInStudy     dicom.Tag = 0x00201208
	tagInstancesInSeries    dicom.Tag = 0x00201209
	tagAvailableTransferSyn dicom.Tag = 0x00083002
)

func supported(l dicomweb.Level, m dicomweb.Match) bool {
	if slices.Contains(archive.SeriesAttributes(), m.Path[0]) {
		return true
	}
	return l == dicomweb.Instances && slices.Contains(archive.InstanceAttributes(), m.Path[0])
}

func span(v string) (from, to string) {
	from, to, ranged := strings.Cut(v, "-")
	if !ranged {
		to = from
	}
	return from, to
}

func digits(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// dateRange reads a DA to match (PS3.4 C.2.2.2.5).
func dateRange(v string) (index.Range, bool) {
	from, to := span(strings.ReplaceAll(v, ".", ""))
	ok := digits(from, 8) && digits(to, 8) && (from == "" || len(from) == 8) && (to == "" || len(to) == 8) && from+to != ""
	if !ok {
		return index.Range{}, true
	}
	return index.Range{From: from, To: to}, false
}

// timeRange reads a TM to match. What an end leaves out is the first moment
// of the range at its beginning and the last one at its end.
func timeRange(v string) (index.Range, bool) {
	from, to := span(strings.ReplaceAll(v, ":", ""))
	from, _, _ = strings.Cut(from, ".")
	to, _, _ = strings.Cut(to, ".")
	if !digits(from, 6) || !digits(to, 6) || len(from)%2+len(to)%2 != 0 || from+to == "" {
		return index.Range{}, true
	}
	if from != "" {
		from += "000000"[len(from):]
	}
	if to != "" {
		to += "235959"[len(to):]
	}
	return index.Range{From: from, To: to}, false
}

// set builds a dataset in UTF-8, in tag order.
type set []dicom.Element

func (s *set) text(t dicom.Tag, values ...string) {
	v := strings.Join(values, `\`)
	*s = append(*s, dicom.Element{Tag: t, VR: t.DictVR(), Value: []byte(v)})
}

// number is an IS, which has a largest (PS3.5 6.2).
func (s *set) number(t dicom.Tag, n int) { s.text(t, strconv.Itoa(min(n, math.MaxInt32))) }

func (s set) dataset() dicom.Dataset {
	s.text(dicom.TagSpecificCharacterSet, "ISO_IR 192")
	slices.SortStableFunc(s, func(a, b dicom.Element) int { return cmp.Compare(a.Tag, b.Tag) })
	return dicom.Dataset{Elements: s}
}

func availability(here bool) string {
	if here {
		return "ONLINE"
	}
	return "NEARLINE"
}

// availabilityOf is that of a study as it is shown.
func availabilityOf(f archive.Found) string {
	if f.Apart {
		return "UNAVAILABLE"
	}
	return availability(f.Here)
}

// dateOf and timeOf write a date and a time as DICOM does now (PS3.5 6.2): before 1993
// they were written 1994.11.05 and 11:20:00.
func dateOf(da string) string {
	if len(da) == len("1994.11.05") && da[4] == '.' && da[7] == '.' {
		return da[:4] + da[5:7] + da[8:]
	}
	return da
}

func timeOf(tm string) string {
	if len(tm) >= len("11:20") && tm[2] == ':' {
		return strings.ReplaceAll(tm, ":", "")
	}
	return tm
}

func studyDataset(f archive.Found) dicom.Dataset {
	var s set
	s.text(dicom.TagStudyDate, dateOf(f.Date))
	s.text(dicom.TagStudyTime, timeOf(f.Time))
	s.text(dicom.TagAccessionNumber, f.Accession)
	s.text(tagAvailability, availabilityOf(f))
	s.text(tagModalitiesInStudy, f.Modalities...)
	s.text(dicom.TagReferringPhysicianName, f.Referring)
	if f.TimezoneOffset != "" {
		s.text(dicom.TagTimezoneOffsetFromUTC, f.TimezoneOffset)
	}
	s.text(dicom.TagStudyDescription, f.Description)
	s.text(dicom.TagPatientName, f.Name)
	if len(f.Patient) > 0 {
		s.text(dicom.TagPatientID, f.Patient[0].ID)
		s.text(dicom.TagIssuerOfPatientID, f.Patient[0].Issuer)
	} else {
		s.text(dicom.TagPatientID, "")
	}
	s.text(dicom.TagPatientBirthDate, dateOf(f.BirthDate))
	s.text(dicom.TagPatientSex, f.Sex)
	s.text(dicom.TagStudyInstanceUID, f.UID)
	s.text(dicom.TagStudyID, f.StudyID)
	s.number(tagSeriesInStudy, f.Study.Series)
	s.number(tagInstancesInStudy, f.Instances)
	return s.dataset()
}

// levelDatasets are a study's series or instances, each with the attributes of
// the levels above it. What is listed may be of a version that is not shown with the
// others, and names another patient: that is shown as its own, if it was asked for.
// left are those of which f does not say whose they are.
func levelDatasets(l dicomweb.Level, f archive.Found, listed []archive.Listed) (out []dicom.Dataset, left int) {
	var others archive.Found
	listed = slices.DeleteFunc(listed, func(i archive.Listed) bool {
		v := slices.IndexFunc(f.Versions, func(v archive.Version) bool { return v.Node == i.Node })
		if v < 0 {
			left++
			return true
		}
		if f.Versions[v].Stranger {
			others.Study = f.Versions[v].Study
			return !f.Versions[v].Matches
		}
		return false
	})
	if others.UID != "" { // one patient's alone are listed
		f = others
	}
	study := studyDataset(f)
	perSeries := make(map[dicom.UID]int)
	here := make(map[dicom.UID]int)
	for _, i := range listed {
		perSeries[i.Series]++
		if i.Here {
			here[i.Series]++
		}
	}
	done := make(map[dicom.UID]bool)
	for _, i := range listed {
		whole := here[i.Series] == perSeries[i.Series]
		var s set
		if l == dicomweb.Series {
			if done[i.Series] {
				continue
			}
			done[i.Series] = true
			s.number(tagInstancesInSeries, perSeries[i.Series])
		} else {
			whole = i.Here
			if i.TransferSyntax != "" {
				s.text(tagAvailableTransferSyn, string(i.TransferSyntax))
			}
			s.text(dicom.TagSOPInstanceUID, string(i.Instance))
			s = merge(s, i.Attrs)
		}
		s.text(tagAvailability, availability(whole))
		s.text(dicom.TagSeriesInstanceUID, string(i.Series))
		s = merge(s, i.SeriesAttrs)
		s = merge(s, study)
		out = append(out, s.dataset())
	}
	return out, left
}

// merge adds what s does not have yet.
func merge(s set, d dicom.Dataset) set {
	for _, e := range d.Elements {
		if e.Tag != dicom.TagSpecificCharacterSet && !slices.ContainsFunc(s, func(x dicom.Element) bool { return x.Tag == e.Tag }) {
			s = append(s, e)
		}
	}
	return s
}
