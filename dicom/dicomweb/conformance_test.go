package dicomweb

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/priormesh/priormesh/dicom"
)

// The instances the table below asks for.
const (
	nativeUID    = "1.2.3.1.1.1" // 2 frames of 2x2, Explicit VR Little Endian
	jlsUID       = "1.2.3.1.1.2" // 2 frames, JPEG-LS
	videoUID     = "1.2.3.1.2.1" // MPEG-4, 3 frames in one stream
	pdfUID       = "1.2.3.2.1.1" // an encapsulated document
	bigUID       = "1.2.3.2.1.2" // 1 frame of 2x2 words, Explicit VR Big Endian
	deflatedUID  = "1.2.3.2.1.3" // 2 frames of 2x2, deflated
	bitsUID      = "1.2.3.2.1.4" // 3 frames of 3x3 bits
	jlsSyntax    = "1.2.840.10008.1.2.4.80"
	mp4Syntax    = "1.2.840.10008.1.2.4.102"
	seriesVideo  = "1.2.3.1.2"
	seriesOther  = "1.2.3.2.1"
	pdfText      = "%PDF-1.7 not really" // of odd length
	acceptFiles  = `multipart/related; type="application/dicom"`
	acceptOctets = `multipart/related; type="application/octet-stream"`
)

func fixture(t testing.TB) *memory {
	pixels := element(dicom.TagPixelData, dicom.OB, []byte{1, 2, 3, 4, 5, 6, 7, 8})
	native := image(2, 2, 2, pixels)
	native = append(native, str(dicom.TagPatientID, dicom.LO, "4711"), str(dicom.TagIssuerOfPatientID, dicom.LO, "RX1"), str(dicom.TagPatientName, dicom.PN, "Doe^Jane"),
		str(dicom.TagStudyDate, dicom.DA, "20200203"), str(dicom.TagModality, dicom.CS, "OT"), str(dicom.TagInstanceNumber, dicom.IS, "1"), str(dicom.TagPatientSex, dicom.CS, "F"),
		element(0x00281201, dicom.OW, bytes.Repeat([]byte{1, 2}, 10_000)), // longer than metadata keeps inline
		seq(0x00400275, str(0x00400009, dicom.SH, "7"), element(0x00091010, dicom.UN, bytes.Repeat([]byte{3}, 20_000))))
	bigBody := func() []byte {
		be := func(tag dicom.Tag, vr dicom.VR, v []byte) []byte { return elementIn(binary.BigEndian, tag, vr, v) }
		us := func(tag dicom.Tag, n uint16) []byte { return be(tag, dicom.US, binary.BigEndian.AppendUint16(nil, n)) }
		return slices.Concat(be(dicom.TagSOPClassUID, dicom.UI, []byte(someClass)), be(dicom.TagSOPInstanceUID, dicom.UI, []byte(bigUID)),
			be(dicom.TagStudyInstanceUID, dicom.UI, []byte(studyB)), be(dicom.TagSeriesInstanceUID, dicom.UI, []byte(seriesOther)),
			us(dicom.TagRows, 2), us(dicom.TagColumns, 2), us(dicom.TagBitsAllocated, 16),
			be(0x00281201, dicom.OW, bytes.Repeat([]byte{1, 2}, 10_000)),
			be(dicom.TagPixelData, dicom.OW, []byte{0, 1, 0, 2, 0, 3, 0, 4}))
	}
	deflated := func() []byte {
		plain := instanceFile(dicom.ExplicitVRLittleEndian, studyB, seriesOther, deflatedUID, image(2, 2, 2, pixels)...)
		head := len(withMeta(dicom.ExplicitVRLittleEndian, deflatedUID, nil))
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, flate.BestCompression)
		w.Write(plain[head:])
		w.Close()
		return withMeta(dicom.DeflatedLittleEndian, deflatedUID, b.Bytes())
	}
	bits := image(3, 3, 3, element(dicom.TagPixelData, dicom.OB, []byte{0b1000_0001, 0b1111_1110, 0b0101_0101, 0b0000_0101}))
	bits[5] = u16(dicom.TagBitsAllocated, 1)
	a := filled(t,
		instanceFile(dicom.ExplicitVRLittleEndian, studyA, seriesA, nativeUID, native...),
		instanceFile(jlsSyntax, studyA, seriesA, jlsUID, append(image(2, 2, 2, encapsulated([]byte("first frame."), []byte("second"))), str(dicom.TagPatientID, dicom.LO, "4711"), str(dicom.TagInstanceNumber, dicom.IS, "2"))...),
		instanceFile(mp4Syntax, studyA, seriesVideo, videoUID, image(2, 2, 3, encapsulated([]byte("all the frames")))...),
		instanceFile(dicom.ExplicitVRLittleEndian, studyB, seriesOther, pdfUID, str(0x00420012, dicom.LO, "application/pdf"), element(0x00420011, dicom.OB, []byte(pdfText)), element(0x00420015, dicom.UL, binary.LittleEndian.AppendUint32(nil, uint32(len(pdfText))))),
		withMeta(dicom.ExplicitVRBigEndian, bigUID, bigBody()),
		deflated(),
		instanceFile(dicom.ExplicitVRLittleEndian, studyB, seriesOther, bitsUID, bits...),
	)
	return a
}

// request is one exchange. Do not follow: there is nothing to follow.
func request(t testing.TB, method, url string, headers map[string]string, body io.Reader) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return res, b
}

type part struct{ contentType, location, content string }

// partsOf reads a multipart/related answer strictly.
func partsOf(t testing.TB, res *http.Response, body []byte) []part {
	t.Helper()
	media, params, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != "multipart/related" {
		t.Fatalf("Content-Type %q: %v: %.200s", res.Header.Get("Content-Type"), err, body)
	}
	mr := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	var parts []part
	for {
		p, err := mr.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatal(err)
		}
		if inner, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type")); inner != params["type"] {
			t.Errorf("a part is %q where type=%q was announced", inner, params["type"])
		}
		parts = append(parts, part{p.Header.Get("Content-Type"), p.Header.Get("Content-Location"), string(b)})
	}
	return parts
}

// One row a clause: what is asked, and what PS3.18 (or the HTTP clause named)
// says comes back.
func TestConformance(t *testing.T) {
	const (
		a, b    = "/studies/" + studyA, "/studies/" + studyB
		sa, sb  = a + "/series/" + seriesA, b + "/series/" + seriesOther
		native  = sa + "/instances/" + nativeUID
		jls     = sa + "/instances/" + jlsUID
		pdf     = sb + "/instances/" + pdfUID
		video   = a + "/series/" + seriesVideo + "/instances/" + videoUID
		big     = sb + "/instances/" + bigUID
		packed  = sb + "/instances/" + deflatedUID
		bits    = sb + "/instances/" + bitsUID
		anyType = "*/*"
	)
	type row struct {
		clause, method, path, accept string
		status                       int
		contentType                  string   // begins with; "" not looked at
		parts                        []string // of multipart/related: Content-Type|content, the content cut at "…"
		body                         string   // contained; for single bodies beginning with "=" all of it
		header                       string   // "Name: value" contained in a header
	}
	for _, layouts := range []bool{false, true} {
		mem := fixture(t)
		mem.layouts = layouts
		mem.completeness = []string{`RX2 has not been heard from since "yesterday"`}
		web := serve(t, mem, Options{})
		file := func(uid dicom.UID) string {
			for _, o := range mem.objects {
				if o.inst.Instance == uid {
					return string(o.data)
				}
			}
			t.Fatal("no", uid)
			return ""
		}
		octets := "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1|"
		rows := []row{
			// Search
			{"10.6.1 all studies", "GET", "/studies", dicomJSON, 200, dicomJSON, nil, `"0020000D":{"vr":"UI","Value":["1.2.3.1"]}`, ""},
			{"10.6.3.3 required attributes with the issuer of the Patient ID", "GET", "/studies?PatientID=4711", "", 200, dicomJSON, nil, `"00100021":{"vr":"LO","Value":["RX1"]}`, ""},
			{"Table 10.6.3-3 Retrieve URL under the prefix", "GET", "/studies", anyType, 200, dicomJSON, nil, `"00081190":{"vr":"UR","Value":["` + web + a + `"]}`, ""},
			{"8.3.4.3 attributes not asked for are left out", "GET", "/series?SeriesInstanceUID=" + seriesA, "", 200, dicomJSON, nil, `!"00281201"`, ""},
			{"8.3.4.3 includefield by keyword", "GET", "/instances?includefield=MIMETypeOfEncapsulatedDocument", "", 200, dicomJSON, nil, `application/pdf`, ""},
			{"8.3.4.3 includefield=all", "GET", sa + "/instances?includefield=all", "", 200, dicomJSON, nil, `"00281201"`, ""},
			{"8.3.4.1 no match: an empty array", "GET", "/studies?PatientID=none", "", 200, dicomJSON, nil, "=[]", ""},
			{"10.6.1 series of a study", "GET", a + "/series", "", 200, dicomJSON, nil, `"0020000E":{"vr":"UI","Value":["1.2.3.1.2"]}`, ""},
			{"10.6.1 instances of a study", "GET", a + "/instances", "", 200, dicomJSON, nil, web + native, ""},
			{"10.6.1 instances of a series", "GET", sa + "/instances?InstanceNumber=2", "", 200, dicomJSON, nil, jlsUID, ""},
			{"10.6.1 all series", "GET", "/series?Modality=OT", "", 200, dicomJSON, nil, `"00100010":{"vr":"PN","Value":[{"Alphabetic":"Doe^Jane"}]}`, ""},
			{"8.3.4.4 limit", "GET", "/instances?limit=1", "", 200, dicomJSON, nil, nativeUID, ""},
			{"8.3.4.4 offset", "GET", "/instances?limit=1&offset=1", "", 200, dicomJSON, nil, jlsUID, ""},
			{"10.6.3.1 what cannot be understood", "GET", "/studies?StudyDate=tomorrow", "", 400, "text/plain", nil, "StudyDate", ""},
			{"RFC 9110 12.5.1 XML is not there", "GET", "/studies", `multipart/related; type="application/dicom+xml"`, 406, "text/plain", nil, dicomJSON, ""},
			{"8.7.3.2 application/json for its kin", "GET", "/studies", "application/json", 200, "application/json", nil, "", ""},
			{"every answer says what it lacks", "GET", "/studies?PatientID=none", "", 200, "", nil, "", `Warning: 299 priormesh "RX2 has not been heard from since \"yesterday\""`},
			{"8.3.4 unknown parameters are ignored, and told", "GET", "/studies?colour=red", "", 200, "", nil, studyA, "Warning: colour"},
			{"8.3.3.1 accept query parameter", "GET", "/studies?accept=text/html", dicomJSON, 406, "", nil, "", ""},

			// Retrieve instances
			{"10.4.1.1.1 study", "GET", a, acceptFiles + "; transfer-syntax=*", 200, `multipart/related; type="application/dicom"; boundary=`,
				[]string{"application/dicom; transfer-syntax=1.2.840.10008.1.2.1|" + file(nativeUID), "application/dicom; transfer-syntax=" + jlsSyntax + "|" + file(jlsUID), "application/dicom; transfer-syntax=" + mp4Syntax + "|" + file(videoUID)}, "", ""},
			{"10.4.1.1.1 series", "GET", sa, anyType, 200, "", []string{"…", "…"}, "", ""},
			{"10.4.1.1.1 instance", "GET", native, acceptFiles, 200, "", []string{"application/dicom; transfer-syntax=1.2.840.10008.1.2.1|" + file(nativeUID)}, "", ""},
			{"8.7.3 no syntax named: what is stored", "GET", jls, acceptFiles, 200, "", []string{"application/dicom; transfer-syntax=" + jlsSyntax + "|…"}, "", ""},
			{"8.7.3 no syntax named: big endian as stored", "GET", big, acceptFiles, 200, "", []string{"application/dicom; transfer-syntax=1.2.840.10008.1.2.2|" + file(bigUID)}, "", ""},
			{"8.7.3 no syntax named: deflated as stored", "GET", packed, acceptFiles, 200, "", []string{"application/dicom; transfer-syntax=1.2.840.10008.1.2.1.99|" + file(deflatedUID)}, "", ""},
			{"8.7.4 single part", "GET", native, "application/dicom", 200, "application/dicom; transfer-syntax=1.2.840.10008.1.2.1", nil, "=" + file(nativeUID), fmt.Sprint("Content-Length: ", len(file(nativeUID)))},
			{"8.7.3 another syntax", "GET", jls, acceptFiles + "; transfer-syntax=1.2.840.10008.1.2.1", 406, "text/plain", nil, jlsSyntax, ""},
			{"8.7.3 another syntax for one of a study: nothing in part", "GET", a, acceptFiles + "; transfer-syntax=1.2.840.10008.1.2.1", 406, "text/plain", nil, jlsSyntax, ""},
			{"8.7.3 the syntaxes of a study, each named", "GET", a, acceptFiles + "; transfer-syntax=1.2.840.10008.1.2.1, " + acceptFiles + "; transfer-syntax=" + jlsSyntax + ", " + acceptFiles + "; transfer-syntax=" + mp4Syntax, 200, "", []string{"…", "…", "…"}, "", ""},
			{"8.7.4 a study is no single part", "GET", a, "application/dicom", 406, "text/plain", nil, "multipart/related", ""},
			{"10.4.3.1 unknown", "GET", "/studies/1.9", anyType, 404, "text/plain", nil, "", "Warning: RX2"},
			{"10.4.3.1 unknown instance of a known series", "GET", sa + "/instances/1.9", anyType, 404, "text/plain", nil, "", ""},
			{"10.4.3.1 instance of another series", "GET", "/studies/" + studyA + "/series/" + seriesVideo + "/instances/" + nativeUID, anyType, 404, "", nil, "", ""},
			{"PS3.5 9.1 no UID", "GET", "/studies/x", anyType, 400, "text/plain", nil, "UID", ""},
			{"RFC 9110 9.3.2 HEAD", "HEAD", a, anyType, 200, "multipart/related", nil, "=", ""},
			{"RFC 9110 9.3.2 HEAD, single part", "HEAD", native, "application/dicom", 200, "application/dicom", nil, "=", fmt.Sprint("Content-Length: ", len(file(nativeUID)))},
			{"RFC 9110 9.3.2 HEAD, search", "HEAD", "/studies", anyType, 200, dicomJSON, nil, "=", ""},
			{"RFC 9110 15.5.6 other methods", "DELETE", a, anyType, 405, "", nil, "", "Allow: GET"},
			{"8.6 a resource that is not there", "GET", a + "/rendered", anyType, 404, "", nil, "", ""},
			{"8.2 a slash at the end", "GET", "/studies/", anyType, 200, dicomJSON, nil, studyA, ""},
			{"RFC 3986 6.2 no redirect out of the prefix", "GET", "/%2E%2E/studies", anyType, 404, "", nil, "", ""},

			// Frames
			{"10.4.1.1.6 native frames, in the order asked for", "GET", native + "/frames/2,1", acceptOctets, 200, `multipart/related; type="application/octet-stream"`, []string{octets + "\x05\x06\x07\x08", octets + "\x01\x02\x03\x04"}, "", ""},
			{"10.4.1.1.6 compressed frames under their own type", "GET", jls + "/frames/1,2", `multipart/related; type="image/jls"`, 200, `multipart/related; type="image/jls"`, []string{"image/jls; transfer-syntax=" + jlsSyntax + "|first frame.", "image/jls; transfer-syntax=" + jlsSyntax + "|second"}, "", ""},
			{"8.7.3.3.2 in any syntax", "GET", jls + "/frames/2", acceptOctets + "; transfer-syntax=*", 200, "", []string{"image/jls; transfer-syntax=" + jlsSyntax + "|second"}, "", ""},
			{"8.7.3.3.1 compressed is no octet-stream", "GET", jls + "/frames/2", acceptOctets, 406, "text/plain", nil, "image/jls", ""},
			{"8.7.3.3 one frame in a single part", "GET", jls + "/frames/2", "image/jls", 200, "image/jls; transfer-syntax=" + jlsSyntax, nil, "=second", ""},
			{"8.7.3.3.1 big endian is served little endian", "GET", big + "/frames/1", acceptOctets, 200, "", []string{octets + "\x01\x00\x02\x00\x03\x00\x04\x00"}, "", ""},
			{"8.7.3.3.1 deflated is served inflated", "GET", packed + "/frames/2,1", acceptOctets, 200, "", []string{octets + "\x05\x06\x07\x08", octets + "\x01\x02\x03\x04"}, "", ""},
			{"PS3.5 8.1.1 bits of the first frame", "GET", bits + "/frames/1", acceptOctets, 200, "", []string{octets + "\x81\x00"}, "", ""},
			{"PS3.5 8.1.1 bits of the others begin a byte", "GET", bits + "/frames/2,3", acceptOctets, 200, "", []string{octets + "\xff\x00", octets + "\x55\x01"}, "", ""},
			{"10.4.3.1 no such frame", "GET", native + "/frames/1,3", anyType, 404, "text/plain", nil, "this instance has 2", ""},
			{"10.4.3.1 no frames at all", "GET", pdf + "/frames/1", anyType, 404, "text/plain", nil, "no frames", ""},
			{"PS3.5 8.2.5 frames of video cannot be told apart", "GET", video + "/frames/2", anyType, 406, "text/plain", nil, "bulkdata/7FE00010", ""},
			{"10.4.1.1.6 frame 0", "GET", native + "/frames/0", anyType, 400, "text/plain", nil, "", ""},
			{"10.4.1.1.6 not a number", "GET", native + "/frames/one", anyType, 400, "text/plain", nil, "", ""},
			{"10.4.1.1.6 no frame twice", "GET", native + "/frames/1,1", anyType, 400, "text/plain", nil, "twice", ""},
			{"RFC 9110 9.3.2 HEAD, frames", "HEAD", native + "/frames/1", anyType, 200, "multipart/related", nil, "=", ""},

			// Metadata
			{"10.4.1.1.2 of a study", "GET", a + "/metadata", dicomJSON, 200, dicomJSON, nil, nativeUID, "Warning: RX2"},
			{"10.4.1.1.2 of a series", "GET", sa + "/metadata", "", 200, dicomJSON, nil, jlsUID, ""},
			{"10.4.1.1.2 of an instance", "GET", native + "/metadata", "", 200, dicomJSON, nil, `"00100020":{"vr":"LO","Value":["4711"]}`, ""},
			{"F.2.6 long values have an address", "GET", native + "/metadata", "", 200, dicomJSON, nil, `"00281201":{"vr":"OW","BulkDataURI":"` + web + native + `/bulkdata/00281201"}`, ""},
			{"F.2.6 so have those in sequences", "GET", native + "/metadata", "", 200, dicomJSON, nil, `"BulkDataURI":"` + web + native + `/bulkdata/00400275/2/00091010"`, ""},
			{"F.2.6 so have pixels, native", "GET", native + "/metadata", "", 200, dicomJSON, nil, `"7FE00010":{"vr":"OB","BulkDataURI":"` + web + native + `/bulkdata/7FE00010"}`, ""},
			{"F.2.6 so have pixels, compressed", "GET", jls + "/metadata", "", 200, dicomJSON, nil, `"7FE00010":{"vr":"OB","BulkDataURI":"`, ""},
			{"F.2.6 so have pixels, deflated", "GET", packed + "/metadata", "", 200, dicomJSON, nil, `"7FE00010":{"vr":"OB","BulkDataURI":"`, ""},
			{"F.2 the file meta information is not part of it", "GET", native + "/metadata", "", 200, dicomJSON, nil, `!"00020010"`, ""},
			{"10.4.3.1 metadata of what is unknown", "GET", "/studies/1.9/metadata", "", 404, "text/plain", nil, "", ""},
			{"RFC 9110 12.5.1 metadata as XML", "GET", a + "/metadata", "application/dicom+xml", 406, "", nil, "", ""},

			// Bulk data
			{"10.4.1.1.5 a value", "GET", native + "/bulkdata/00281201", acceptOctets, 200, "", []string{octets + strings.Repeat("\x01\x02", 10_000)}, "", ""},
			{"10.4.1.1.5 a value in a sequence, single part", "GET", native + "/bulkdata/00400275/2/00091010", "application/octet-stream", 200, "application/octet-stream", nil, "=" + strings.Repeat("\x03", 20_000), ""},
			{"8.7.3.3.1 a big endian value", "GET", big + "/bulkdata/00281201", "application/octet-stream", 200, "", nil, "=" + strings.Repeat("\x02\x01", 10_000), ""},
			{"10.4.1.1.5 native pixels", "GET", native + "/bulkdata/7FE00010", acceptOctets, 200, "", []string{octets + "\x01\x02\x03\x04\x05\x06\x07\x08"}, "", ""},
			{"8.7.3.3.1 big endian pixels", "GET", big + "/bulkdata/7fe00010", acceptOctets, 200, "", []string{octets + "\x01\x00\x02\x00\x03\x00\x04\x00"}, "", ""},
			{"8.7.3.3.2 compressed pixels, a part for each frame", "GET", jls + "/bulkdata/7FE00010", anyType, 200, "", []string{"image/jls; transfer-syntax=" + jlsSyntax + "|first frame.", "image/jls; transfer-syntax=" + jlsSyntax + "|second"}, "", ""},
			{"8.7.3.3.2 video in a single part", "GET", video + "/bulkdata/7FE00010", "video/mp4", 200, "video/mp4; transfer-syntax=" + mp4Syntax, nil, "=all the frames", ""},
			{"10.4.1.1.5 a document under its own type, without padding", "GET", pdf + "/bulkdata/00420011", "application/pdf", 200, "application/pdf", nil, "=" + pdfText, ""},
			{"10.4.1.1.5 a document as octets", "GET", pdf + "/bulkdata/00420011", acceptOctets, 200, "", []string{octets + pdfText}, "", ""},
			{"10.4.3.1 no such attribute", "GET", native + "/bulkdata/00420011", anyType, 404, "text/plain", nil, "metadata", ""},
			{"10.4.3.1 no such item", "GET", native + "/bulkdata/00400275/9/00091010", anyType, 404, "text/plain", nil, "", ""},
			{"10.4.3.1 a sequence is no bulk data", "GET", native + "/bulkdata/00400275", anyType, 404, "text/plain", nil, "", ""},
			{"10.4.1.1.5 a path that is none", "GET", native + "/bulkdata/00400275/x/y", anyType, 400, "text/plain", nil, "", ""},
		}
		for _, c := range rows {
			t.Run(fmt.Sprintf("layouts=%v/%s", layouts, c.clause), func(t *testing.T) {
				headers := map[string]string{}
				if c.accept != "" {
					headers["Accept"] = c.accept
				}
				res, body := request(t, c.method, web+c.path, headers, nil)
				if res.StatusCode != c.status {
					t.Fatalf("status %d, want %d: %.300s", res.StatusCode, c.status, body)
				}
				if !strings.HasPrefix(res.Header.Get("Content-Type"), c.contentType) {
					t.Errorf("Content-Type %q, want %q", res.Header.Get("Content-Type"), c.contentType)
				}
				if k, v, ok := strings.Cut(c.header, ": "); ok && !slices.ContainsFunc(res.Header.Values(k), func(s string) bool { return strings.Contains(s, v) }) {
					t.Errorf("header %s %q, want %q", k, res.Header.Values(k), v)
				}
				switch {
				case strings.HasPrefix(c.body, "="):
					if string(body) != c.body[1:] {
						t.Errorf("body %.300q, want %.300q", body, c.body[1:])
					}
				case strings.HasPrefix(c.body, "!"):
					if strings.Contains(string(body), c.body[1:]) {
						t.Errorf("body has %s: %.500s", c.body[1:], body)
					}
				case !strings.Contains(string(body), c.body):
					t.Errorf("body has no %s: %.2000s", c.body, body)
				}
				if strings.HasPrefix(res.Header.Get("Content-Type"), dicomJSON) && c.method == "GET" && !json.Valid(body) {
					t.Errorf("no JSON: %.300s", body)
				}
				if c.parts == nil {
					return
				}
				got := partsOf(t, res, body)
				if len(got) != len(c.parts) {
					t.Fatalf("%d parts, want %d", len(got), len(c.parts))
				}
				for i, p := range got {
					want, open := strings.CutSuffix(c.parts[i], "…")
					have := p.contentType + "|" + p.content
					if open && !strings.HasPrefix(have, want) || !open && have != want {
						t.Errorf("part %d: %.200q, want %.200q", i, have, want)
					}
					if !strings.HasPrefix(p.location, web+"/studies/") {
						t.Errorf("part %d is at %q", i, p.location)
					}
				}
			})
		}
	}
}

// What an archive's errors become before the first byte.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		body   string
		header map[string]string
	}{
		{"not found", fmt.Errorf("wrapped: %w", ErrNotFound), 404, "search first", nil},
		{"gone", ErrGone, 410, "erased", nil},
		{"unavailable", &Unavailable{"RX2 cannot be reached; ask again soon", 1500 * time.Millisecond}, 503, "RX2 cannot be reached", map[string]string{"Retry-After": "2"}},
		{"unavailable, not known for how long", &Unavailable{Reason: "later"}, 503, "later", map[string]string{"Retry-After": ""}},
		{"refused", &Refused{Reason: "not for this purpose"}, 403, "purpose", nil},
		{"anything else is for the log", errTest, 500, "log", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := fixture(t)
			mem.objectsErr = c.err
			web := serve(t, mem, Options{})
			const instance = "/studies/" + studyA + "/series/" + seriesA + "/instances/" + nativeUID
			for _, path := range []string{"/studies", "/studies/" + studyA, "/studies/" + studyA + "/metadata", instance, instance + "/frames/1", instance + "/bulkdata/7FE00010", instance + "/metadata"} {
				res, body := request(t, "GET", web+path, nil, nil)
				if res.StatusCode != c.status || !strings.Contains(string(body), c.body) || strings.Contains(string(body), errTest.Error()) {
					t.Errorf("%s: %d %s", path, res.StatusCode, body)
				}
				if ct := res.Header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
					t.Errorf("%s: Content-Type %q", path, ct)
				}
				for k, v := range c.header {
					if res.Header.Get(k) != v {
						t.Errorf("%s: %s %q, want %q", path, k, res.Header.Get(k), v)
					}
				}
			}
		})
	}
}

// Which address URLs in answers begin with.
func TestRetrieveURLs(t *testing.T) {
	forwarded := map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "pacs.example.org, inner"}
	for _, c := range []struct {
		name    string
		o       Options
		headers map[string]string
		want    string // "" the server's own address
	}{
		{name: "the request's host", headers: forwarded},
		{name: "a deeper prefix", o: Options{Prefix: "/a/b"}},
		{name: "a base URL", o: Options{BaseURL: "https://pacs.example.org/web/"}, headers: forwarded, want: "https://pacs.example.org/web"},
		{name: "a trusted proxy", o: Options{TrustForwarded: true}, headers: forwarded, want: "https://pacs.example.org/dicom-web"},
		{name: "a proxy that says nonsense", o: Options{TrustForwarded: true}, headers: map[string]string{"X-Forwarded-Proto": "ftp", "X-Forwarded-Host": `a"b/`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			web := serve(t, fixture(t), c.o)
			if c.want == "" {
				c.want = web
			}
			for path, tag := range map[string]string{"/studies": "00081190", "/studies/" + studyA + "/metadata": "7FE00010"} {
				_, body := request(t, "GET", web+path, c.headers, nil)
				var all []map[string]struct {
					Value       []any
					BulkDataURI string
				}
				if err := json.Unmarshal(body, &all); err != nil {
					t.Fatal(err)
				}
				e := all[0][tag]
				url := e.BulkDataURI
				if url == "" {
					url = fmt.Sprint(e.Value[0])
				}
				if !strings.HasPrefix(url, c.want+"/studies/"+studyA) {
					t.Errorf("%s, want it at %s", url, c.want)
				}
			}
		})
	}
}

// Of many warnings as many are told as clients bear, and that there are more.
func TestManyWarnings(t *testing.T) {
	mem := fixture(t)
	for i := range 40 {
		mem.completeness = append(mem.completeness, fmt.Sprintf("RX%d has not been heard from\r\nSet-Cookie: x=é", i))
	}
	res, _ := request(t, "GET", serve(t, mem, Options{})+"/studies", nil, nil)
	all := res.Header.Values("Warning")
	if len(all) != maxWarnings || !strings.Contains(all[maxWarnings-1], "25 warnings more") || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("%d warnings, the last %q", len(all), all[len(all)-1])
	}
	if all[0] != `299 priormesh "RX0 has not been heard from  Set-Cookie: x=?"` {
		t.Errorf("%q", all[0])
	}
}

// The greatest number of results is said when it cuts an answer short, and a
// greater limit cannot raise it.
func TestResultLimit(t *testing.T) {
	mem := fixture(t)
	web := serve(t, mem, Options{Limits: Limits{Results: 2, InStudy: 1}})
	for path, want := range map[string]struct{ n, warnings int }{
		"/instances":                                    {2, 1},
		"/instances?limit=1000000000000":                {2, 1},
		"/instances?limit=1":                            {1, 0},
		"/studies":                                      {2, 0},
		"/studies/" + studyA + "/instances":             {1, 1},
		"/studies/" + studyA + "/instances?offset=2":    {1, 0},
		"/studies/" + studyA + "/instances?offset=9999": {0, 0},
	} {
		res, body := request(t, "GET", web+path, nil, nil)
		var all []any
		if err := json.Unmarshal(body, &all); err != nil {
			t.Fatal(err)
		}
		if len(all) != want.n || len(res.Header.Values("Warning")) != want.warnings {
			t.Errorf("%s: %d results, warnings %q, want %+v", path, len(all), res.Header.Values("Warning"), want)
		}
	}
}

// What the archive is asked is what the client asked.
func TestQueryReachesTheArchive(t *testing.T) {
	mem := fixture(t)
	web := serve(t, mem, Options{})
	request(t, "GET", web+"/studies/1.2.3.1/series/1.2.3.1.1/instances?PatientName=doe*&limit=3&offset=1&fuzzymatching=true&includefield=all", nil, nil)
	q := mem.queries[0]
	if q.Level != Instances || q.Ref != (Ref{Study: studyA, Series: seriesA}) || !q.Fuzzy || q.Limit != 3 || q.Offset != 1 || !q.Include.All || len(q.Match) != 1 || q.Match[0].Values[0] != "doe*" {
		t.Errorf("%+v", q)
	}
}
