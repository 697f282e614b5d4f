package dicomweb

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/priormesh/priormesh/dicom"
)

// memory is an Archive in memory.
type memory struct {
	layouts bool // Objects know their Layout

	mu      sync.Mutex
	objects []*memoryObject

	// What the next calls do beside the ordinary.
	completeness []string
	warnings     []string
	queries      []Query
	storeErr     error                             // of Store, after the instance was read
	storing      func(r io.Reader)                 // sees the part before it is read
	objectsErr   error                             // the first and only yield
	between      func(i int) error                 // before instance i is yielded; an error ends the sequence
	reading      func(io.ReadSeeker) io.ReadSeeker // wraps what Open gives
}

type memoryObject struct {
	a    *memory
	data []byte
	inst *dicom.Instance
}

func (o *memoryObject) UIDs() dicom.UIDs { return o.inst.UIDs }
func (o *memoryObject) Size() int64      { return int64(len(o.data)) }

func (o *memoryObject) Open(context.Context) (io.ReadSeekCloser, error) {
	r := io.ReadSeeker(bytes.NewReader(o.data))
	if o.a.reading != nil {
		r = o.a.reading(r)
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{r, io.NopCloser(nil)}, nil
}

func (o *memoryObject) Layout() *Layout {
	if !o.a.layouts {
		return nil
	}
	return layoutOf(o.inst)
}

func (a *memory) Store(_ context.Context, study dicom.UID, r io.Reader) func() (Stored, error) {
	got, err := a.store(study, r)
	return func() (Stored, error) { return got, err }
}

func (a *memory) store(study dicom.UID, r io.Reader) (Stored, error) {
	if a.storing != nil {
		a.storing(r)
	}
	var (
		got  Stored
		data []byte
	)
	inst, err := dicom.Scan(r, dicom.Limits{}, dicom.Handler{
		Begin: func(u dicom.UIDs) error {
			got.UIDs = u
			if study != "" && u.Study != study {
				return &Refused{"the instance is of another study than the address", CodeWrongStudy}
			}
			return nil
		},
		Piece: func(p dicom.Piece) error { data = append(data, p.Data...); return nil },
	})
	if err != nil {
		return got, err
	}
	if a.storeErr != nil {
		return got, a.storeErr
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, o := range a.objects {
		if o.inst.Instance == inst.Instance {
			if bytes.Equal(o.data, data) {
				return Stored{UIDs: inst.UIDs, Duplicate: true}, nil
			}
			return got, &Conflict{inst.Instance}
		}
	}
	a.objects = append(a.objects, &memoryObject{a, data, inst})
	return Stored{UIDs: inst.UIDs}, nil
}

func (a *memory) Completeness(context.Context, Ref) []string { return a.completeness }

func (a *memory) Headers(ctx context.Context, ref Ref) iter.Seq2[Object, error] {
	return a.Objects(ctx, ref)
}

func (a *memory) Objects(_ context.Context, ref Ref) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if a.objectsErr != nil {
			yield(nil, a.objectsErr)
			return
		}
		i := 0
		for _, o := range a.list() {
			u := o.inst.UIDs
			if u.Study != ref.Study || ref.Series != "" && u.Series != ref.Series || ref.Instance != "" && u.Instance != ref.Instance {
				continue
			}
			if a.between != nil {
				if err := a.between(i); err != nil {
					yield(nil, err)
					return
				}
			}
			i++
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (a *memory) list() []*memoryObject {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.objects)
}

func (a *memory) Query(_ context.Context, q Query) (Result, error) {
	a.mu.Lock()
	a.queries = append(a.queries, q)
	a.mu.Unlock()
	if a.objectsErr != nil {
		return Result{}, a.objectsErr
	}
	seen := make(map[dicom.UID]bool)
	res := Result{Warnings: a.warnings}
	skip := q.Offset
	for _, o := range a.list() {
		u := o.inst.UIDs
		id := map[Level]dicom.UID{Studies: u.Study, Series: u.Series, Instances: u.Instance}[q.Level]
		if seen[id] || q.Ref.Study != "" && u.Study != q.Ref.Study || q.Ref.Series != "" && u.Series != q.Ref.Series || !Matches(o.inst.Data, q.Match...) {
			continue
		}
		seen[id] = true
		if skip > 0 {
			skip--
			continue
		}
		if len(res.Datasets) == q.Limit {
			res.More = true
			break
		}
		res.Datasets = append(res.Datasets, o.inst.Data)
	}
	return res, nil
}

// serve starts the handler as a caller mounts it.
func serve(t testing.TB, a Archive, o Options) string {
	t.Helper()
	if o.Prefix == "" {
		o.Prefix = "/dicom-web"
	}
	mux := http.NewServeMux()
	mux.Handle(o.Prefix+"/", http.StripPrefix(o.Prefix, New(a, o)))
	srv := httptest.NewUnstartedServer(mux)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.URL + o.Prefix
}

func filled(t testing.TB, files ...[]byte) *memory {
	t.Helper()
	a := &memory{}
	for i, f := range files {
		if _, err := a.store("", bytes.NewReader(f)); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	return a
}

// realFiles are the instances of the test data, by path below it; those in
// broken/ apart.
func realFiles(t testing.TB) map[string][]byte {
	t.Helper()
	root := filepath.Join("..", "..", "..", "shared", "testdata", "dicom")
	if _, err := os.Stat(root); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("the real files are not there: %v", err)
		}
		t.Skipf("no real files at %s", root)
	}
	files := make(map[string][]byte)
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".tsv") || strings.HasSuffix(path, ".md") {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		files[rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 500 {
		t.Fatalf("only %d real files", len(files))
	}
	return files
}

// element writes one attribute in Explicit VR Little Endian.
func element(tag dicom.Tag, vr dicom.VR, value []byte) []byte {
	return elementIn(binary.LittleEndian, tag, vr, value)
}

func elementIn(order binary.AppendByteOrder, tag dicom.Tag, vr dicom.VR, value []byte) []byte {
	if len(value)%2 != 0 {
		pad := byte(' ')
		if vr == dicom.UI || vr.IsBinary() {
			pad = 0
		}
		value = append(slices.Clone(value), pad)
	}
	b := order.AppendUint16(nil, tag.Group())
	b = order.AppendUint16(b, tag.Element())
	b = append(b, vr...)
	switch vr {
	case "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV":
		b = append(b, 0, 0)
		b = order.AppendUint32(b, uint32(len(value)))
	default:
		b = order.AppendUint16(b, uint16(len(value)))
	}
	return append(b, value...)
}

func str(tag dicom.Tag, vr dicom.VR, s string) []byte { return element(tag, vr, []byte(s)) }

func u16(tag dicom.Tag, n uint16) []byte {
	return element(tag, dicom.US, binary.LittleEndian.AppendUint16(nil, n))
}

// seq writes a sequence of items with defined lengths.
func seq(tag dicom.Tag, items ...[]byte) []byte {
	var v []byte
	for _, item := range items {
		v = append(v, 0xFE, 0xFF, 0x00, 0xE0)
		v = binary.LittleEndian.AppendUint32(v, uint32(len(item)))
		v = append(v, item...)
	}
	return element(tag, dicom.SQ, v)
}

// encapsulated writes Pixel Data as one fragment a frame, with a basic offset
// table.
func encapsulated(frames ...[]byte) []byte {
	item := func(b, content []byte) []byte {
		b = append(b, 0xFE, 0xFF, 0x00, 0xE0)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(content)))
		return append(b, content...)
	}
	var table, body []byte
	for _, f := range frames {
		table = binary.LittleEndian.AppendUint32(table, uint32(len(body)))
		body = item(body, f)
	}
	b := []byte{0xE0, 0x7F, 0x10, 0x00, 'O', 'B', 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}
	b = item(b, table)
	b = append(b, body...)
	return append(b, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0)
}

const (
	someClass = "1.2.840.10008.5.1.4.1.1.7"
	studyA    = "1.2.3.1"
	studyB    = "1.2.3.2"
	seriesA   = "1.2.3.1.1"
)

// instanceFile writes an instance with a meta header. Elements that are given
// are put in their place among the UIDs.
func instanceFile(syntax dicom.UID, study, series, sop string, elements ...[]byte) []byte {
	tagOf := func(b []byte) uint32 {
		return uint32(binary.LittleEndian.Uint16(b))<<16 | uint32(binary.LittleEndian.Uint16(b[2:]))
	}
	all := append([][]byte{
		str(dicom.TagSOPClassUID, dicom.UI, someClass), str(dicom.TagSOPInstanceUID, dicom.UI, sop),
		str(dicom.TagStudyInstanceUID, dicom.UI, study), str(dicom.TagSeriesInstanceUID, dicom.UI, series),
	}, elements...)
	slices.SortStableFunc(all, func(a, b []byte) int { return cmp.Compare(tagOf(a), tagOf(b)) })
	return withMeta(syntax, sop, bytes.Join(all, nil))
}

func withMeta(syntax dicom.UID, sop string, body []byte) []byte {
	meta := slices.Concat(element(0x00020001, dicom.OB, []byte{0, 1}), str(dicom.TagMediaStorageSOPClassUID, dicom.UI, someClass),
		str(dicom.TagMediaStorageSOPInstanceUID, dicom.UI, sop), str(dicom.TagTransferSyntaxUID, dicom.UI, string(syntax)))
	b := append(make([]byte, 128), "DICM"...)
	b = append(b, element(dicom.TagMetaGroupLength, dicom.UL, binary.LittleEndian.AppendUint32(nil, uint32(len(meta))))...)
	b = append(b, meta...)
	return append(b, body...)
}

// image is what makes frames of an instance: 8 bits, rows x columns.
func image(rows, columns, frames int, pixels []byte) [][]byte {
	return [][]byte{
		u16(dicom.TagSamplesPerPixel, 1), str(dicom.TagPhotometricInterpretation, dicom.CS, "MONOCHROME2"),
		str(dicom.TagNumberOfFrames, dicom.IS, strconv.Itoa(frames)),
		u16(dicom.TagRows, uint16(rows)), u16(dicom.TagColumns, uint16(columns)), u16(dicom.TagBitsAllocated, 8), pixels,
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:8])
}

var errTest = errors.New("what the archive says to its log only")

// sink stores nothing.
type sink struct{ Archive }

func (sink) Store(_ context.Context, _ dicom.UID, r io.Reader) func() (Stored, error) {
	_, err := io.Copy(io.Discard, r)
	return func() (Stored, error) {
		return Stored{UIDs: dicom.UIDs{Study: studyA, Series: seriesA, Instance: nativeUID}}, err
	}
}
