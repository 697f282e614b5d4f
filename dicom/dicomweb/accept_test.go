package dicomweb

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

func TestParseAccept(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       accepted
	}{
		{"nothing said accepts all", " ", accepted{{name: "*/*", q: 1}}},
		{"quoted type", `multipart/related; type="application/dicom"`, accepted{{name: related, inner: dicomFile, q: 1}}},
		{"type without quotes, as OHIF and Orthanc send it", `multipart/related; type=application/dicom; transfer-syntax=*`, accepted{{name: related, inner: dicomFile, syntax: "*", q: 1}}},
		{"case and space", `Multipart/Related ;  TYPE = "Image/JLS" ; Transfer-Syntax = 1.2.3 ; Q=0.5`, accepted{{name: related, inner: "image/jls", syntax: "1.2.3", q: .5}}},
		{"several, weighted", `application/dicom;q=.25, */*;q=0`, accepted{{name: dicomFile, q: .25}, {name: "*/*", q: 0}}},
		{"comma and semicolon inside quotes", `multipart/related; x="a,b;c\"d"; type="image/*"`, accepted{{name: related, inner: "image/*", q: 1}}},
		{"quoted syntax", `application/dicom; transfer-syntax="1.2.840.10008.1.2.1"`, accepted{{name: dicomFile, syntax: "1.2.840.10008.1.2.1", q: 1}}},
		{"the lone star of old Java", `text/html, *; q=.2, */*; q=.2`, accepted{{name: "text/html", q: 1}, {name: "*/*", q: .2}, {name: "*/*", q: .2}}},
		{"stray separators", `,, application/dicom ; ;,`, accepted{{name: dicomFile, q: 1}}},
		{"what makes no sense is left out", `nonsense, application/dicom;q=2, application/dicom;transfer-syntax=x, a/b;type=c, application/dicom+json`, accepted{{name: dicomJSON, q: 1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parseAccept(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("got %+v, want %+v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Errorf("range %d: got %+v, want %+v", i, got[i], c.want[i])
				}
			}
		})
	}
	if _, err := parseAccept("nonsense"); err == nil {
		t.Error("a header without any media type was accepted")
	}
	var limit ErrLimit
	if _, err := parseAccept(strings.Repeat("a/b,", 10_000)); !errors.As(err, &limit) || limit.What != "maxRanges" {
		t.Errorf("10 000 ranges: %v", err)
	}
}

// Which form is chosen; the offers are named by their media type, "m:" for multipart.
func TestNegotiation(t *testing.T) {
	const (
		jls      = "1.2.840.10008.1.2.4.80"
		explicit = string(dicom.ExplicitVRLittleEndian)
	)
	files := func(u dicom.UID) []offer { return instanceOffers(u, true) }
	frame := func(u dicom.UID, enc bool) []offer {
		return []offer{pixelOffer(u, enc, true), pixelOffer(u, enc, false)}
	}
	for _, c := range []struct {
		accept string
		offers []offer
		want   string // "" for 406
	}{
		// Instances, PS3.18 8.7.3.2.
		{`*/*`, files(jls), "m:application/dicom"},
		{``, files(jls), "m:application/dicom"},
		{`multipart/*`, files(jls), "m:application/dicom"},
		{`multipart/related`, files(jls), "m:application/dicom"},
		{`multipart/related; type="application/dicom"`, files(jls), "m:application/dicom"},
		{`multipart/related; type=application/dicom`, files(dicom.ExplicitVRBigEndian), "m:application/dicom"},
		{`multipart/related; type="application/dicom"; transfer-syntax=*`, files(jls), "m:application/dicom"},
		{`multipart/related; type="application/dicom"; transfer-syntax=` + jls, files(jls), "m:application/dicom"},
		{`multipart/related; type="application/dicom"; transfer-syntax=` + explicit, files(jls), ""},
		{`multipart/related; type="application/dicom"; transfer-syntax=` + explicit + `, multipart/related; type="application/dicom"; transfer-syntax=` + jls, files(jls), "m:application/dicom"},
		{`application/dicom`, files(jls), "application/dicom"},
		{`application/*`, files(jls), "application/dicom"},
		{`application/dicom`, files(jls)[:1], ""}, // a study comes in parts only
		{`application/dicom;q=0.9, multipart/related;type="application/dicom";q=0.1`, files(jls), "application/dicom"},
		{`application/dicom, multipart/related;type="application/dicom"`, files(jls), "m:application/dicom"},
		{`*/*, multipart/related;q=0`, files(jls), "application/dicom"},
		{`*/*, multipart/related;q=0, application/dicom;q=0`, files(jls), ""},
		{`*/*;q=0`, files(jls), ""},
		{`application/dicom; transfer-syntax=` + jls + `;q=0, application/dicom`, files(jls), ""},
		{`image/jpeg, text/html`, files(jls), ""},

		// Compressed frames, Table 8.7.3-5.
		{`*/*`, frame(jls, true), "m:image/jls"},
		{`multipart/related; type="image/jls"`, frame(jls, true), "m:image/jls"},
		{`multipart/related; type="image/*"`, frame(jls, true), "m:image/jls"},
		{`image/*`, frame(jls, true), "image/jls"},
		{`multipart/related; type="image/jls"; transfer-syntax=` + jls, frame(jls, true), "m:image/jls"},
		{`multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.81`, frame(jls, true), ""},
		{`multipart/related; type="image/x-jls"`, frame(jls, true), "m:image/x-jls"},
		{`multipart/related; type="image/jpeg"`, frame(jls, true), ""},
		{`image/jls`, frame(jls, true), "image/jls"},
		{`image/jls`, frame(jls, true)[:1], ""}, // several frames
		{`image/jphc`, frame("1.2.840.10008.1.2.4.202", true), "image/jphc"},
		{`image/dicom-rle`, frame(dicom.RLELossless, true), "image/dicom-rle"},
		{`video/mp4`, frame("1.2.840.10008.1.2.4.102.1", true), "video/mp4"},
		// octet-stream is uncompressed, unless the client names the syntax or takes any.
		{`multipart/related; type="application/octet-stream"`, frame(jls, true), ""},
		{`application/octet-stream`, frame(jls, true), ""},
		{`multipart/related; type=application/octet-stream; transfer-syntax=*`, frame(jls, true), "m:image/jls"},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=` + jls, frame(jls, true), "m:image/jls"},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=` + explicit, frame(jls, true), ""},
		{`multipart/related; type="application/octet-stream", multipart/related; type="image/jls"; q=0.1`, frame(jls, true), "m:image/jls"},
		// A syntax without a media type of its own.
		{`multipart/related; type="application/octet-stream"`, frame("1.2.3.4", true), ""},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=*`, frame("1.2.3.4", true), "m:application/octet-stream"},
		{`*/*`, frame("1.2.3.4", true), "m:application/octet-stream"},

		// Native frames, Table 8.7.3-4.
		{`*/*`, frame(dicom.ImplicitVRLittleEndian, false), "m:application/octet-stream"},
		{`multipart/related; type="application/octet-stream"`, frame(dicom.ExplicitVRBigEndian, false), "m:application/octet-stream"},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=` + explicit, frame(dicom.ImplicitVRLittleEndian, false), "m:application/octet-stream"},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2`, frame(dicom.ImplicitVRLittleEndian, false), "m:application/octet-stream"},
		{`multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.2`, frame(dicom.ExplicitVRBigEndian, false), ""},
		{`application/octet-stream`, frame(dicom.ExplicitVRLittleEndian, false), "application/octet-stream"},
		{`multipart/related; type="image/jpeg"`, frame(dicom.ExplicitVRLittleEndian, false), ""},
		{`application/octet-stream`, frame(encapsulatedUncompressed, true), "application/octet-stream"},
	} {
		a, err := parseAccept(c.accept)
		if err != nil {
			t.Fatalf("%s: %v", c.accept, err)
		}
		o, name, ok := a.choose(c.offers)
		got := name
		if o.multipart {
			got = "m:" + name
		}
		if !ok {
			got = ""
		}
		if got != c.want {
			t.Errorf("Accept: %s\nof %+v\n got %q, want %q", c.accept, c.offers, got, c.want)
		}
	}
}

func TestNotAcceptableSaysWhatThereIs(t *testing.T) {
	err := notAcceptable(instanceOffers("1.2.840.10008.1.2.4.80", false))
	var p *problem
	if !errors.As(err, &p) || p.status != http.StatusNotAcceptable || !strings.Contains(p.text, `multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.80`) {
		t.Errorf("%v", err)
	}
}

func FuzzAccept(f *testing.F) {
	for _, s := range []string{
		`multipart/related; type="application/dicom"; transfer-syntax=*;q=0.5, */*;q=0.1`,
		`multipart/related; type=application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1`,
		`"`, `a/b;c="\`, `;;;`, `*/*;q=1e-400`, `*;q=0`, "a/b;q=NaN",
	} {
		f.Add(s)
	}
	offers := append(instanceOffers("1.2.840.10008.1.2.4.80", true), pixelOffer("1.2.3", true, true), jsonOffers[0])
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseAccept(s)
		if err != nil {
			return
		}
		if len(a) == 0 || len(a) > maxRanges {
			t.Fatalf("%d ranges", len(a))
		}
		for _, m := range a {
			if !validMediaType(m.name) || !(m.q >= 0 && m.q <= 1) {
				t.Fatalf("%+v", m)
			}
		}
		o, name, ok := a.choose(offers)
		if !ok {
			return
		}
		if q, _ := a.weight(o); q <= 0 || name == "" {
			t.Fatalf("chose %+v as %q with weight %v", o, name, q)
		}
	})
}
