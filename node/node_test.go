package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/api"
)

const soon = 30 * time.Second // for what happens by itself

// trust is a node under test and the client of its operator.
type trust struct {
	t    *testing.T
	home *node.Home
	n    *node.Node
}

func newTrust(t *testing.T, ods, found string) *trust {
	t.Helper()
	c := node.DefaultConfig()
	c.Trust, c.Name = index.TrustID(ods), "Trust "+ods
	c.HTTP, c.Mesh = "127.0.0.1:0", []string{freeMesh(t)}
	c.Identity.DefaultIssuer = "TEST"
	c.Space.Reserve = 0 // of one disk so many homes would keep too much
	c.Archive.PublishAfter, c.Archive.SettleAfter = node.Duration(20*time.Millisecond), node.Duration(300*time.Millisecond)
	c.Fetch.ReadThrough, c.Fetch.RetryMin = node.Duration(10*time.Second), node.Duration(200*time.Millisecond)
	h, err := node.InitHome(filepath.Join(t.TempDir(), ods), node.InitOptions{Config: c, Found: found})
	if err != nil {
		t.Fatal(err)
	}
	tr := &trust{t: t, home: h}
	t.Cleanup(tr.stop)
	return tr
}

// freeMesh is where a node can listen: one that restarts is found again there.
func freeMesh(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", l.Addr().(*net.TCPAddr).Port)
}

func (tr *trust) start() {
	tr.t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{tr.t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("at", tr.home.Config.Trust)
	n, err := node.Open(context.Background(), tr.home, node.Options{Log: log, Version: "test"})
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.n = n
}

func (tr *trust) stop() {
	if tr.n != nil {
		if err := tr.n.Close(); err != nil {
			tr.t.Errorf("closing %s: %v", tr.home.Config.Trust, err)
		}
		tr.n = nil
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(b))
	return len(b), nil
}

// region founds a region with the first trust and admits the others one by
// one, each endorsed by every member, and returns when all are connected.
func region(t *testing.T, codes ...string) []*trust {
	t.Helper()
	return regionOf(t, newTrust(t, codes[0], "Test region"), codes[1:]...)
}

// regionOf is region by a founder that has its settings.
func regionOf(t *testing.T, first *trust, codes ...string) []*trust {
	t.Helper()
	first.start()
	all := []*trust{first}
	for _, ods := range codes {
		all = joined(t, all, ods)
	}
	return all
}

// joined is a region that one more trust has joined.
func joined(t *testing.T, all []*trust, ods string) []*trust {
	t.Helper()
	tr := newTrust(t, ods, "")
	card, err := tr.home.Card()
	if err != nil {
		t.Fatal(err)
	}
	var invitation string
	wait(t, ods+" is admitted", func() (bool, string) {
		for _, m := range all {
			a, err := m.n.Admit(context.Background(), card)
			if err != nil {
				return false, err.Error()
			}
			invitation = a.Invitation
		}
		return invitation != "", "no quorum yet"
	})
	if _, err := tr.home.Join(invitation); err != nil {
		t.Fatal(err)
	}
	tr.start()
	all = append(all, tr)
	for _, m := range all {
		m.wait("hears every trust", func() (bool, string) {
			s := slices.DeleteFunc(m.n.Silence(), func(s string) bool { return strings.Contains(s, "was expelled") })
			return len(s) == 0, strings.Join(s, "; ")
		})
	}
	return all
}

func wait(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for {
		done, state := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s; last seen: %s", soon, what, state)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (tr *trust) wait(what string, ok func() (bool, string)) {
	tr.t.Helper()
	wait(tr.t, string(tr.home.Config.Trust)+" "+what, ok)
}

func (tr *trust) url(path string) string { return "http://" + tr.n.HTTPAddr() + path }

func (tr *trust) get(path, accept string) (*http.Response, []byte) {
	tr.t.Helper()
	req, _ := http.NewRequest("GET", tr.url(path), nil)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tr.t.Fatal(err)
	}
	return res, b
}

// operator calls the operator API.
func (tr *trust) operator(method, path string, body []byte, out any) int {
	tr.t.Helper()
	req, _ := http.NewRequest(method, tr.url(path), bytes.NewReader(body))
	token, err := tr.home.Token()
	if err != nil {
		tr.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(b, out); err != nil {
		tr.t.Fatalf("%s %s: %v in %q", method, path, err, b)
	}
	return res.StatusCode
}

// imports stores instances as a backfill.
func (tr *trust) imports(list ...dicomtest.Instance) {
	tr.t.Helper()
	for _, i := range list {
		var r api.Receipt
		if code := tr.operator("POST", "/api/v1/instances", i.Bytes(), &r); code != 200 || r.Outcome != api.Stored {
			tr.t.Fatalf("import: %d %+v", code, r)
		}
	}
}

// stow sends instances as a modality or PACS does.
func (tr *trust) stow(list ...dicomtest.Instance) (int, []byte) {
	tr.t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	for _, i := range list {
		p, _ := w.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
		p.Write(i.Bytes())
	}
	w.Close()
	res, err := http.Post(tr.url("/dicom-web/studies"), `multipart/related; type="application/dicom"; boundary=`+w.Boundary(), &body)
	if err != nil {
		tr.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, b
}

// retrieve reads a study by WADO-RS: the parts as they were sent.
func (tr *trust) retrieve(path string) (int, http.Header, [][]byte) {
	tr.t.Helper()
	res, b := tr.get("/dicom-web/"+path, `multipart/related; type="application/dicom"; transfer-syntax=*`)
	if res.StatusCode != 200 {
		return res.StatusCode, res.Header, [][]byte{b}
	}
	_, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil {
		tr.t.Fatal(err)
	}
	var parts [][]byte
	for r := multipart.NewReader(bytes.NewReader(b), params["boundary"]); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			return res.StatusCode, res.Header, parts
		}
		if err != nil {
			tr.t.Fatal(err)
		}
		part, err := io.ReadAll(p)
		if err != nil {
			tr.t.Fatal(err)
		}
		parts = append(parts, part)
	}
}

// availability is what QIDO-RS says of a study: ONLINE, NEARLINE, or "" if it
// is not found.
func (tr *trust) availability(study string) string {
	tr.t.Helper()
	res, b := tr.get("/dicom-web/studies?StudyInstanceUID="+study+"&includefield=all", "application/dicom+json")
	if res.StatusCode != 200 {
		return res.Status
	}
	var out []map[string]struct{ Value []any }
	if err := json.Unmarshal(b, &out); err != nil {
		tr.t.Fatalf("%v in %q", err, b)
	}
	if len(out) == 0 {
		return ""
	}
	if v := out[0]["00080056"].Value; len(v) > 0 {
		return fmt.Sprint(v[0])
	}
	return "unsaid"
}

func (tr *trust) waitAvailability(study, want string) {
	tr.t.Helper()
	tr.wait("shows the study as "+want, func() (bool, string) {
		got := tr.availability(study)
		return got == want, got
	})
}

// study makes instances of one study of a patient.
func study(root string, p dicomtest.Instance, date string, instances int) []dicomtest.Instance {
	out := make([]dicomtest.Instance, instances)
	for i := range out {
		out[i] = p
		out[i].Study, out[i].Series = root, root+".1"
		out[i].SOP = fmt.Sprintf("%s.1.%d", root, i+1)
		out[i].Date, out[i].Modality, out[i].Number, out[i].Frames, out[i].Fill = date, "CT", i+1, 2, byte(i)
	}
	return out
}

var (
	ada   = dicomtest.Instance{PatientID: "A1", Name: "Lovelace^Ada", BirthDate: "18151210", Sex: "F"}
	grace = dicomtest.Instance{PatientID: "G1", Name: "Hopper^Grace", BirthDate: "19061209", Sex: "F"}
)

func same(t *testing.T, got [][]byte, want []dicomtest.Instance) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d instances, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i].Bytes()) {
			t.Errorf("instance %d differs from what was stored", i)
		}
	}
}

func TestPriorsAreThereBeforeAnyoneAsks(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	second, third := study("1.2.3.2", ada, "20200101", 3), study("1.2.3.3", ada, "20210101", 2)
	other := study("1.2.3.9", grace, "20220101", 2)
	r[1].imports(second...)
	r[1].imports(other...)
	r[2].imports(third...)
	for _, s := range []string{"1.2.3.2", "1.2.3.3", "1.2.3.9"} {
		r[0].waitAvailability(s, "NEARLINE")
	}
	if code, b := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatalf("STOW: %d %s", code, b)
	}
	r[0].waitAvailability("1.2.3.2", "ONLINE")
	r[0].waitAvailability("1.2.3.3", "ONLINE")
	r[1].stop()
	r[2].stop()
	for uid, want := range map[string][]dicomtest.Instance{"1.2.3.2": second, "1.2.3.3": third} {
		code, _, got := r[0].retrieve("studies/" + uid)
		if code != 200 {
			t.Fatalf("%d %s", code, got)
		}
		same(t, got, want)
	}
	if got := r[0].availability("1.2.3.9"); got != "NEARLINE" {
		t.Errorf("another patient's study is %s, want NEARLINE: nobody asked for it", got)
	}
}

func TestAPriorThatTurnsUpLaterStillComes(t *testing.T) {
	r := region(t, "RX1", "RX2")
	if code, _ := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	r[1].imports(study("1.2.3.2", ada, "20200101", 2)...)
	r[0].waitAvailability("1.2.3.2", "ONLINE")
}

// Equal numbers alone do not make one patient, and studies whose own instances
// disagree on whose they are belong to nobody for certain.
func TestNobodyElsesStudyIsDelivered(t *testing.T) {
	r := region(t, "RX1", "RX2")
	namesake := dicomtest.Instance{PatientID: ada.PatientID, Name: "Byron^George", BirthDate: "17880122"}
	anonymous := dicomtest.Instance{PatientID: ada.PatientID}
	foreign := ada
	foreign.Issuer = "ELSEWHERE"
	other := ada
	other.Sex = "M"
	r[1].imports(study("1.2.3.7", other, "20200101", 1)...)
	r[1].imports(study("1.2.3.2", namesake, "20200101", 1)...)
	r[1].imports(study("1.2.3.3", anonymous, "20200101", 1)...)
	r[1].imports(study("1.2.3.4", foreign, "20200101", 1)...)
	mixed := study("1.2.3.5", ada, "20200101", 2)
	mixed[1].PatientID, mixed[1].Name, mixed[1].BirthDate = "G1", grace.Name, grace.BirthDate
	r[1].imports(mixed...)
	certain := study("1.2.3.6", ada, "20190101", 1) // the oldest: it comes last
	r[1].imports(certain...)
	for _, s := range []string{"1.2.3.2", "1.2.3.3", "1.2.3.4", "1.2.3.5", "1.2.3.6", "1.2.3.7"} {
		r[0].waitAvailability(s, "NEARLINE")
	}
	r[0].wait("knows that the study is mixed", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.5", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].MixedPatient, fmt.Sprintf("%+v", f.Studies)
	})
	if code, _ := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	r[0].waitAvailability("1.2.3.6", "ONLINE")
	for _, s := range []string{"1.2.3.2", "1.2.3.3", "1.2.3.4", "1.2.3.5", "1.2.3.7"} {
		if got := r[0].availability(s); got != "NEARLINE" {
			t.Errorf("study %s is %s: it may be somebody else's", s, got)
		}
	}
	r[0].wait("has nothing more to fetch", func() (bool, string) {
		var st api.Status
		r[0].operator("GET", "/api/v1/status", nil, &st)
		return len(st.Fetches) == 0, fmt.Sprintf("%+v", st.Fetches)
	})
	for _, s := range []string{"1.2.3.2", "1.2.3.3", "1.2.3.4", "1.2.3.5", "1.2.3.7"} {
		if got := r[0].availability(s); got != "NEARLINE" {
			t.Errorf("in the end study %s is %s", s, got)
		}
	}
}

// Who was told "stored" finds the study at once, and all that was stored of it.
func TestWhatIsStoredIsFoundAtOnce(t *testing.T) {
	r := region(t, "RX1")
	for i, inst := range study("1.2.3.1", ada, "20240101", 4) {
		r[0].imports(inst)
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?patient=A1", nil, &f)
		if len(f.Studies) != 1 || f.Studies[0].Instances != i+1 || f.Studies[0].Availability != "ONLINE" {
			t.Fatalf("after %d instances: %+v", i+1, f.Studies)
		}
	}
}

// The first instance says little; those after it name two people.
func TestAStudyIsMixedWhicheverInstancesDisagree(t *testing.T) {
	r := region(t, "RX1")
	list := study("1.2.3.1", dicomtest.Instance{PatientID: "A1"}, "20240101", 3)
	list[1].Name, list[1].BirthDate = ada.Name, ada.BirthDate
	list[0].Name = "Lovelace"
	list[2].Name = "Lovelace^Annabella"
	r[0].imports(list[:2]...)
	var f api.Found
	state := func() (bool, string) {
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Name == ada.Name, fmt.Sprintf("%+v", f.Studies)
	}
	r[0].wait("takes the name from the instance that says one", state)
	if f.Studies[0].MixedPatient {
		t.Error("mixed although nobody disagrees yet")
	}
	r[0].imports(list[2])
	r[0].wait("calls the study mixed", func() (bool, string) {
		_, s := state()
		return f.Studies[0].MixedPatient, s
	})
}

func TestTheFirstBytesOfAnInstanceAreKept(t *testing.T) {
	r := region(t, "RX1")
	first := study("1.2.3.1", ada, "20240101", 1)
	r[0].imports(first...)
	other := first[0]
	other.Fill = 99
	var got api.Receipt
	if code := r[0].operator("POST", "/api/v1/instances", other.Bytes(), &got); code != 409 || got.Outcome != api.Refused || !strings.Contains(got.Reason, "conflict") {
		t.Errorf("other bytes under the same UID: %d %+v", code, got)
	}
	if code := r[0].operator("POST", "/api/v1/instances", first[0].Bytes(), &got); code != 200 || got.Outcome != api.Duplicate {
		t.Errorf("the same bytes again: %d %+v", code, got)
	}
	_, _, parts := r[0].retrieve("studies/1.2.3.1")
	same(t, parts, first)
}

func TestImagesOfTwoPeopleAreNeverOneStudy(t *testing.T) {
	r := region(t, "RX1", "RX2")
	mine, theirs := study("1.2.3.1", ada, "20200101", 1), study("1.2.3.1", grace, "20200101", 2)
	theirs[0].SOP, theirs[1].SOP = "1.2.3.1.8", "1.2.3.1.9"
	r[0].imports(mine...)
	r[1].imports(theirs...)
	r[0].wait("says that the study is in doubt", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].MixedPatient && f.Studies[0].Name == ada.Name && len(f.Studies[0].Trusts) == 2, fmt.Sprintf("%+v", f.Studies)
	})
	code, header, parts := r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "RX2") || !strings.Contains(w, "another patient") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, mine)
	_, b := r[0].get("/dicom-web/studies/1.2.3.1/instances", "application/dicom+json")
	if bytes.Contains(b, []byte("1.2.3.1.9")) {
		t.Errorf("another patient's instance is listed: %s", b)
	}
	var st api.Status
	if r[0].operator("GET", "/api/v1/status", nil, &st); st.Studies.Copies != 0 {
		t.Error("the other patient's version was brought here")
	}
}

// No header, however odd, keeps a stored study from being found.
func TestAnOddHeaderIsFound(t *testing.T) {
	r := region(t, "RX1", "RX2")
	for i, change := range []func(*dicomtest.Instance){
		func(x *dicomtest.Instance) { x.PatientID = "12\t34" },
		func(x *dicomtest.Instance) { x.Issuer = "a\tb" },
		func(x *dicomtest.Instance) { x.Accession = "1\n2" },
		func(x *dicomtest.Instance) { x.Date = "2020\x000101" },
		func(x *dicomtest.Instance) { x.BirthDate = "\x01" },
		func(x *dicomtest.Instance) { x.Accession = strings.Repeat("9", 3000) },
		func(x *dicomtest.Instance) { x.Description = strings.Repeat("ä\x07", 1500) },
	} {
		uid := fmt.Sprintf("1.2.3.%d", i+1)
		inst := study(uid, ada, "20200101", 1)[0]
		change(&inst)
		r[0].imports(inst)
		r[1].waitAvailability(uid, "NEARLINE")
		if got := r[0].availability(uid); got != "ONLINE" {
			t.Errorf("header %d: %s where it was stored", i, got)
		}
	}
}

func TestAMissingIssuerIsTheDefaultOne(t *testing.T) {
	r := region(t, "RX1", "RX2")
	list := study("1.2.3.2", ada, "20200101", 2)
	list[0].Issuer = "TEST" // what identity.default_issuer is
	list[1].BirthDate = "00000000"
	r[1].imports(list...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	if code, _ := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	r[0].waitAvailability("1.2.3.2", "ONLINE")
}

// The study that says that two numbers are one patient's comes last.
func TestALateLinkBringsWhatItLinks(t *testing.T) {
	r := region(t, "RX1", "RX2")
	other := ada
	other.PatientID = "B2"
	r[1].imports(study("1.2.3.2", other, "20190101", 1)...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	if code, _ := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	link := study("1.2.3.3", ada, "20200101", 1)[0]
	link.OtherID = "B2"
	r[1].imports(link)
	r[0].waitAvailability("1.2.3.3", "ONLINE")
	r[0].waitAvailability("1.2.3.2", "ONLINE")
}

func TestAnArrivalOfWhatWasImportedBringsPriors(t *testing.T) {
	r := region(t, "RX1", "RX2")
	current := study("1.2.3.1", ada, "20240101", 1)
	r[0].imports(current...)
	r[1].imports(study("1.2.3.2", ada, "20200101", 1)...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	r[0].wait("has settled the study", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return f.Studies[0].Settled, ""
	})
	if got := r[0].availability("1.2.3.2"); got != "NEARLINE" {
		t.Fatalf("a backfill has brought a prior: %s", got)
	}
	if code, _ := r[0].stow(current...); code != 200 {
		t.Fatal(code)
	}
	r[0].waitAvailability("1.2.3.2", "ONLINE")
}

// Whatever else is out of reach: what is here is given, what is not is not
// denied, and the answer says which.
func TestPartOfAStudyIsNeverTheWhole(t *testing.T) {
	r := region(t, "RX1", "RX2")
	all := study("1.2.3.1", ada, "20200101", 3)
	r[0].imports(all[0])
	r[1].imports(all[1:]...)
	r[0].wait("knows both versions", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return len(f.Studies) == 1 && len(f.Studies[0].Trusts) == 2 && f.Studies[0].Instances == 2, fmt.Sprintf("%+v", f.Studies)
	})
	r[1].stop()
	r[0].wait("says that RX2 is silent", func() (bool, string) { return len(r[0].n.Silence()) == 1, "" })
	code, header, parts := r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "RX2 has told of more of this study than is here") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, all[:1])
	code, header, _ = r[0].retrieve("studies/1.2.3.1/series/1.2.3.1.1/instances/" + all[1].SOP)
	if code != 503 || header.Get("Retry-After") == "" {
		t.Errorf("an instance that is elsewhere: %d", code)
	}
	if got := r[0].availability("1.2.3.1"); got != "NEARLINE" {
		t.Errorf("the study is %s, and not all of it is here", got)
	}
	r[1].start()
	r[0].waitAvailability("1.2.3.1", "ONLINE")
	_, _, parts = r[0].retrieve("studies/1.2.3.1")
	same(t, parts, all)
}

// A copy whose origin has grown and gone is still given as it is.
func TestAnOldRevisionIsBetterThanNone(t *testing.T) {
	r := region(t, "RX1", "RX2", "RX3")
	all := study("1.2.3.1", ada, "20200101", 3)
	r[1].imports(all[:2]...)
	r[0].wait("knows the study", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Instances == 2, fmt.Sprintf("%+v", f.Studies)
	})
	_, _, parts := r[0].retrieve("studies/1.2.3.1")
	same(t, parts, all[:2])
	r[0].waitAvailability("1.2.3.1", "ONLINE")
	// RX1 is away while the study grows; then its origin is, and RX3 tells RX1.
	r[0].stop()
	r[1].imports(all[2])
	r[2].wait("knows that it has grown", func() (bool, string) {
		var f api.Found
		r[2].operator("GET", "/api/v1/studies?study=1.2.3.1", nil, &f)
		return f.Studies[0].Instances == 3, ""
	})
	r[1].stop()
	r[0].start()
	r[0].waitAvailability("1.2.3.1", "NEARLINE")
	code, header, parts := r[0].retrieve("studies/1.2.3.1")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "RX2 has told of more of this study than is here") {
		t.Errorf("%d, Warning %q", code, w)
	}
	same(t, parts, all[:2])
	r[1].start()
	r[0].waitAvailability("1.2.3.1", "ONLINE")
	_, _, parts = r[0].retrieve("studies/1.2.3.1")
	same(t, parts, all)
}

// Another trust's copy cannot keep out what is received first-hand.
func TestATrustsOwnOriginalGoesBeforeACopy(t *testing.T) {
	r := region(t, "RX1", "RX2")
	original := study("1.2.3.1", ada, "20200101", 1)
	coerced := study("1.2.3.1", ada, "20200101", 1)
	coerced[0].PatientID = "LOCAL7" // as a CD import does
	r[1].imports(coerced...)
	r[0].waitAvailability("1.2.3.1", "NEARLINE")
	_, _, parts := r[0].retrieve("studies/1.2.3.1")
	same(t, parts, coerced)
	if code, b := r[0].stow(original...); code != 200 {
		t.Fatalf("the original is refused: %d %s", code, b)
	}
	_, _, parts = r[0].retrieve("studies/1.2.3.1")
	same(t, parts, original)
	var st api.Status
	if r[0].operator("GET", "/api/v1/status", nil, &st); len(st.Conflicts) != 1 || st.Conflicts[0].Trust != "RX2" {
		t.Errorf("conflicts: %+v", st.Conflicts)
	}
	var got api.Receipt
	if code := r[0].operator("POST", "/api/v1/instances", coerced[0].Bytes(), &got); code != 409 {
		t.Errorf("other bytes after the original: %d %+v", code, got)
	}
}

// Two trusts have the same instance by UID with different bytes: here the
// first stays, the other is kept out and named.
func TestConflictingCopyIsKeptOutAndNamed(t *testing.T) {
	r := region(t, "RX1", "RX2")
	mine := study("1.2.3.1", ada, "20240101", 1)
	theirs := study("1.2.3.2", ada, "20200101", 2)
	theirs[0].SOP = mine[0].SOP
	r[1].imports(theirs...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	if code, _ := r[0].stow(mine...); code != 200 {
		t.Fatal(code)
	}
	r[0].wait("names the conflict", func() (bool, string) {
		var st api.Status
		r[0].operator("GET", "/api/v1/status", nil, &st)
		return len(st.Conflicts) == 1 && st.Conflicts[0].Instance == mine[0].SOP && st.Conflicts[0].Trust == "RX2", fmt.Sprintf("%+v", st.Conflicts)
	})
	_, _, parts := r[0].retrieve("studies/1.2.3.1")
	same(t, parts, mine)
	code, header, parts := r[0].retrieve("studies/1.2.3.2")
	if w := strings.Join(header.Values("Warning"), " "); code != 200 || !strings.Contains(w, "1 instance of the study as RX2 has it is not shown") {
		t.Errorf("a study without an instance: %d, Warning %q", code, w)
	}
	same(t, parts, theirs[1:])
	if code, _, b := r[0].retrieve("studies/1.2.3.2/series/1.2.3.2.1/instances/" + theirs[0].SOP); code != 503 || !bytes.Contains(b[0], []byte("kept out")) {
		t.Errorf("the instance that is kept out: %d %s", code, b)
	}
}

// Who reads a remote study before any of it is here is told at once what will be
// kept out of it.
func TestTheFirstReaderIsToldOfAConflict(t *testing.T) {
	for _, path := range []string{"", "/metadata"} {
		r := region(t, "RX1", "RX2")
		mine := study("1.2.3.1", ada, "20240101", 1)
		theirs := study("1.2.3.2", grace, "20200101", 3)
		theirs[1].SOP = mine[0].SOP
		r[0].imports(mine...)
		r[1].imports(theirs...)
		r[0].wait("knows all of the study", func() (bool, string) {
			s := r[0].find("1.2.3.2")
			return len(s) == 1 && s[0].Instances == 3, fmt.Sprintf("%+v", s)
		})
		for range 2 {
			res, body := r[0].get("/dicom-web/studies/1.2.3.2"+path, map[bool]string{true: "", false: "application/dicom+json"}[path == ""])
			if w := strings.Join(res.Header.Values("Warning"), " "); res.StatusCode != 200 || !strings.Contains(w, "1 instance of the study as RX2 has it is not shown") {
				t.Errorf("%q: %d, Warning %q", path, res.StatusCode, w)
			}
			if n := bytes.Count(body, []byte(theirs[0].SOP)); n == 0 || bytes.Contains(body, []byte(mine[0].SOP)) {
				t.Errorf("%q: the instances that are given", path)
			}
		}
	}
}

func TestARemoteStudyIsReadThrough(t *testing.T) {
	r := region(t, "RX1", "RX2")
	want := study("1.2.3.2", ada, "20200101", 5)
	r[1].imports(want...)
	r[0].wait("knows all of the study", func() (bool, string) {
		var f api.Found
		r[0].operator("GET", "/api/v1/studies?study=1.2.3.2", nil, &f)
		return len(f.Studies) == 1 && f.Studies[0].Instances == 5, fmt.Sprintf("%+v", f.Studies)
	})
	res, b := r[0].get("/dicom-web/studies/1.2.3.2/series", "application/dicom+json")
	if res.StatusCode != 200 || !bytes.Contains(b, []byte("1.2.3.2.1")) {
		t.Fatalf("series of a remote study: %d %s", res.StatusCode, b)
	}
	if got := r[0].availability("1.2.3.2"); got != "NEARLINE" {
		t.Errorf("listing the series has made the study %s", got)
	}
	code, _, parts := r[0].retrieve("studies/1.2.3.2")
	if code != 200 {
		t.Fatalf("%d %s", code, parts)
	}
	same(t, parts, want)
	r[0].waitAvailability("1.2.3.2", "ONLINE")
}

func TestAHolderThatIsGoneIsSaidAndItsStudyComesWhenItReturns(t *testing.T) {
	r := region(t, "RX1", "RX2")
	want := study("1.2.3.2", ada, "20200101", 2)
	r[1].imports(want...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	before := time.Now().Add(-time.Minute)
	r[1].stop()
	r[0].wait("says that RX2 is silent", func() (bool, string) {
		res, _ := r[0].get("/dicom-web/studies?PatientID=A1", "application/dicom+json")
		w := res.Header.Get("Warning")
		_, since, found := strings.Cut(w, "RX2 has not been heard from since ")
		if !found {
			return false, w
		}
		at, err := time.Parse(time.RFC3339, strings.TrimSuffix(since, `"`))
		return err == nil && at.After(before) && strings.HasPrefix(w, "299 "), w
	})
	if got := r[0].availability("1.2.3.2"); got != "NEARLINE" {
		t.Errorf("the study of a silent trust is %q, want NEARLINE", got)
	}
	code, header, body := r[0].retrieve("studies/1.2.3.2")
	if code != 503 || header.Get("Retry-After") == "" || !bytes.Contains(body[0], []byte("RX2 has not been heard from since")) {
		t.Errorf("reading it: %d, Retry-After %q, %s", code, header.Get("Retry-After"), body[0])
	}
	// Reading it was asking for it. Then both restart: the wish is on disk.
	var f api.Fetch
	if code := r[0].operator("GET", "/api/v1/fetches/1.2.3.2", nil, &f); code != 200 || f.State != "waiting" && f.State != "active" {
		t.Fatalf("%d %+v", code, f)
	}
	r[0].stop()
	r[0].start()
	if got := r[0].n.Silence(); len(got) != 1 || !strings.Contains(got[0], "RX2 has not been heard from since") {
		t.Errorf("after a restart: %q", got)
	}
	r[1].start()
	r[0].waitAvailability("1.2.3.2", "ONLINE")
	_, _, parts := r[0].retrieve("studies/1.2.3.2")
	same(t, parts, want)
}

func TestACopyFollowsItsOrigin(t *testing.T) {
	r := region(t, "RX1", "RX2")
	all := study("1.2.3.2", ada, "20200101", 4)
	r[1].imports(all[:2]...)
	r[0].waitAvailability("1.2.3.2", "NEARLINE")
	if code, _ := r[0].stow(study("1.2.3.1", ada, "20240101", 1)...); code != 200 {
		t.Fatal(code)
	}
	r[0].waitAvailability("1.2.3.2", "ONLINE")
	r[1].imports(all[2:]...)
	r[0].wait("has the whole study", func() (bool, string) {
		_, _, parts := r[0].retrieve("studies/1.2.3.2")
		return len(parts) == 4, fmt.Sprintf("%d instances", len(parts))
	})
	_, _, parts := r[0].retrieve("studies/1.2.3.2")
	same(t, parts, all)
}

func TestAStrangerIsNotLetIn(t *testing.T) {
	r := region(t, "RX1", "RX2")
	stranger := newTrust(t, "RX9", "Another region")
	stranger.start()
	card, err := stranger.home.Card()
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r[0].n.Admit(context.Background(), card); err != nil || a.Admitted || a.Invitation != "" || a.Have != 1 || a.Need != 2 {
		t.Errorf("one of two votes: %+v, %v", a, err)
	}
	if got := r[0].n.Peers(); len(got) != 1 {
		t.Errorf("peers: %+v", got)
	}
	if got := stranger.n.Peers(); len(got) != 0 {
		t.Errorf("the stranger's peers: %+v", got)
	}
}

// Only a trust's own node speaks for a further one of it.
func TestAFurtherNodeIsAdmittedAtItsTrust(t *testing.T) {
	r := region(t, "RX1", "RX2")
	h, err := node.InitHome(filepath.Join(t.TempDir(), "further"), node.InitOptions{Config: r[1].home.Config, TrustKey: filepath.Join(r[1].home.Dir, "trust.key")})
	if err != nil {
		t.Fatal(err)
	}
	further, err := h.Card()
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r[0].n.Admit(context.Background(), further); !errors.Is(err, api.ErrWrongUse) || !strings.Contains(err.Error(), "a further node of it is admitted at a node of RX2") {
		t.Errorf("%+v, %v", a, err)
	}
	own, err := r[1].home.Card()
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r[0].n.Admit(context.Background(), own); err != nil || !a.Admitted {
		t.Errorf("the card of the member itself: %+v, %v", a, err)
	}
	if a, err := r[1].n.Admit(context.Background(), further); err != nil || !a.Admitted {
		t.Errorf("at its own trust: %+v, %v", a, err)
	}
}

// What is elsewhere cannot be verified here, nor twice erased.
func TestWhatIsNotKeptHere(t *testing.T) {
	r := region(t, "RX1", "RX2")
	r[1].imports(study("1.2.3.1", ada, "20240101", 1)...)
	r[0].waitAvailability("1.2.3.1", "NEARLINE")
	var said map[string]any
	if code := r[0].operator("POST", "/api/v1/verifications", []byte(`{"study": "1.2.3.1"}`), &said); code != http.StatusNotFound || said["error"] != "nothing of it is kept here; RX2 has it" {
		t.Errorf("verify: %d %v", code, said)
	}
	if said, code := eraseStudy(r[1], "1.2.3.1"); code != http.StatusOK {
		t.Fatal(code, said)
	}
	if said, code := eraseStudy(r[1], "1.2.3.1"); code != http.StatusNotFound || !strings.Contains(said, "it was erased at 20") {
		t.Errorf("erased again: %d %s", code, said)
	}
}

// A page from elsewhere that has its name resolve to this machine reads nothing.
func TestANodeOnLoopbackHasNoOtherName(t *testing.T) {
	r := region(t, "RX1")
	for host, want := range map[string]int{"evil.example": 421, "localhost": 200, "127.0.0.1": 200} {
		req, _ := http.NewRequest("GET", r[0].url("/dicom-web/studies"), nil)
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("as %s: %d, want %d", host, res.StatusCode, want)
		}
	}
}

// Lost keys or blocks are not covered up by what the catalogue remembers.
func TestWhatWasLostIsStoredAgain(t *testing.T) {
	for _, lost := range []string{"keys/g1", "blocks/*"} {
		r := region(t, "RX1")
		list := study("1.2.3.1", ada, "20240101", 2)
		r[0].imports(list...)
		r[0].stop()
		gone, err := filepath.Glob(filepath.Join(r[0].home.Dir, lost))
		if err != nil || len(gone) == 0 {
			t.Fatal(gone, err)
		}
		for _, path := range gone {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		r[0].start()
		for _, i := range list {
			var got api.Receipt
			if code := r[0].operator("POST", "/api/v1/instances", i.Bytes(), &got); code != 200 {
				t.Fatalf("%s lost: %d %+v", lost, code, got)
			}
		}
		code, _, parts := r[0].retrieve("studies/1.2.3.1")
		if code != 200 {
			t.Fatalf("%s lost and sent again: %d %s", lost, code, parts)
		}
		same(t, parts, list)
		r[0].stop()
	}
}

func TestAHomeOfMixedFilesDoesNotRun(t *testing.T) {
	a, b := newTrust(t, "RX1", "One"), newTrust(t, "RX2", "Two")
	key, err := os.ReadFile(filepath.Join(b.home.Dir, "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a.home.Dir, "node.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := node.Open(context.Background(), a.home, node.Options{}); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("got %v", err)
		if n != nil {
			n.Close()
		}
	}
}

func TestASecretThatOthersCanReadIsNoSecret(t *testing.T) {
	for _, name := range []string{"node.key", "operator.token"} {
		tr := newTrust(t, "RX1", "Region")
		if err := os.Chmod(filepath.Join(tr.home.Dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
		if n, err := node.Open(context.Background(), tr.home, node.Options{}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%s: got %v", name, err)
			if n != nil {
				n.Close()
			}
		}
	}
}

func TestTheOperatorAPINeedsItsToken(t *testing.T) {
	r := region(t, "RX1")
	for _, path := range []string{"/api/v1/status", "/api/v1/peers", "/api/v1/studies"} {
		res, b := r[0].get(path, "")
		if res.StatusCode != 401 || bytes.Contains(b, []byte("peer")) {
			t.Errorf("%s without a token: %d %s", path, res.StatusCode, b)
		}
	}
}
