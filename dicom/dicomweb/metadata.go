package dicomweb

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/priormesh/priormesh/dicom"
)

const (
	tagMIMETypeOfEncapsulatedDocument dicom.Tag = 0x00420012
	tagEncapsulatedDocument           dicom.Tag = 0x00420011
	tagEncapsulatedDocumentLength     dicom.Tag = 0x00420015
)

// metadata answers WADO-RS for metadata, PS3.18 10.4.1.1.2: all attributes of
// each instance, with an address in place of long binary values and pixel data.
func (s *server) metadata(w http.ResponseWriter, r *http.Request, ref Ref) error {
	ctx := r.Context()
	accept, err := s.accept(r)
	if err != nil {
		return err
	}
	_, contentType, ok := accept.choose(jsonOffers)
	if !ok {
		return notAcceptable(jsonOffers)
	}
	buf := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(buf)
	base, begun := s.base(r), false
	for o, err := range s.archive.Headers(ctx, ref) {
		if err != nil {
			return err
		}
		b := append((*buf)[:0], ',')
		if !begun {
			b[0] = '['
		}
		if b, err = s.appendMetadata(b, r, o, base); err != nil {
			return err
		}
		if !begun {
			if ref.Instance == "" {
				s.warn(w, s.archive.Completeness(ctx, ref))
			}
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(http.StatusOK)
			begun = true
			if r.Method == http.MethodHead {
				return nil
			}
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if ref.Instance != "" {
			break
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			return err
		}
	}
	if !begun {
		return ErrNotFound
	}
	_, err = w.Write([]byte{']'})
	return err
}

func (s *server) appendMetadata(b []byte, r *http.Request, o Object, base string) ([]byte, error) {
	in, err := s.open(r.Context(), o)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	ds, err := in.header()
	if err != nil {
		return nil, err
	}
	if in.layout.Pixels {
		tag, vr, err := in.pixelElement()
		if err != nil {
			return nil, err
		}
		ds.Elements = append(slices.Clip(ds.Elements), dicom.Element{Tag: tag, VR: vr, Bulk: &in.layout.Value})
	}
	j := jsonModel{bulk: refTo(in.uids).url(base) + "/bulkdata/", inline: s.Limits.Inline}
	return j.append(b, ds, ""), nil
}

// bulkdata answers what BulkDataURI points at, PS3.18 10.4.1.1.5.
func (s *server) bulkdata(w http.ResponseWriter, r *http.Request, ref Ref) error {
	ctx := r.Context()
	accept, err := s.accept(r)
	if err != nil {
		return err
	}
	path, err := s.Limits.bulkPath(r.PathValue("path"))
	if err != nil {
		return err
	}
	o, err := s.one(ctx, ref)
	if err != nil {
		return err
	}
	in, err := s.open(ctx, o)
	if err != nil {
		return err
	}
	defer in.Close()
	out := s.newSender(w, r)
	defer out.release()
	location := ref.url(s.base(r)) + "/bulkdata/" + r.PathValue("path")

	if len(path) == 1 && in.layout.Pixels {
		tag, vr, err := in.pixelElement()
		if err != nil {
			return err
		}
		if path[0].tag == tag {
			return in.sendPixels(out, accept, vr, location)
		}
	}
	ds, err := in.header()
	if err != nil {
		return err
	}
	ds, e, ok := find(ds, path)
	if !ok || e.VR == dicom.SQ || len(e.Items) > 0 {
		return &problem{http.StatusNotFound, "this instance has no value at that path; take the addresses from its metadata"}
	}
	content, size, err := in.value(ds, e)
	if err != nil {
		return err
	}
	offers := []offer{pixelOffer(dicom.ExplicitVRLittleEndian, false, true), pixelOffer(dicom.ExplicitVRLittleEndian, false, false)}
	if media := strings.ToLower(ds.String(tagMIMETypeOfEncapsulatedDocument)); e.Tag == tagEncapsulatedDocument && validMediaType(media) && media != octetStream {
		if n, ok := ds.Int(tagEncapsulatedDocumentLength); ok && n >= 0 && int64(n) <= size {
			content, size = io.LimitReader(content, int64(n)), int64(n) // without padding
		}
		offers = append([]offer{{multipart: true, names: []string{media}}, {names: []string{media}}}, offers...)
	}
	chosen, name, ok := accept.choose(offers)
	if !ok {
		return notAcceptable(offers)
	}
	if err := out.send(chosen, name, location, content, size); err != nil {
		return err
	}
	return out.close()
}

// sendPixels gives the pixel data whole: native as one part, compressed as a
// part for each frame, PS3.18 8.7.3.3.2.
func (in *instance) sendPixels(out *sender, accept accepted, vr dicom.VR, location string) error {
	l := in.layout
	if l.Encapsulated && l.NumFrames == 0 {
		return &problem{http.StatusNotFound, "the pixel data of this instance is empty"}
	}
	offers := pixelOffers(in, !l.Encapsulated || l.NumFrames == 1)
	chosen, name, ok := accept.choose(offers)
	if !ok {
		return notAcceptable(offers)
	}
	if !l.Encapsulated {
		if err := out.send(chosen, name, location, in.read(l.Value, l.Value, in.width(vr)), l.Value.Len); err != nil {
			return err
		}
		return out.close()
	}
	for i := range l.NumFrames {
		content, err := in.frame(i)
		if err != nil {
			return err
		}
		if err := out.send(chosen, name, location, content, -1); err != nil {
			return err
		}
	}
	return out.close()
}

// maxText bounds a text that is held to be put into UTF-8.
const maxText = 16 << 20

// value is the content of an element of ds: little endian, text as UTF-8
// (PS3.18 F.2.2 note 4).
func (in *instance) value(ds dicom.Dataset, e dicom.Element) (io.Reader, int64, error) {
	if e.Bulk != nil {
		r := in.bulk(*e.Bulk)
		content := in.read(r, r, in.width(e.VR))
		if !e.VR.IsText() {
			return content, r.Len, nil
		}
		if r.Len > maxText {
			return nil, 0, &problem{http.StatusNotAcceptable, fmt.Sprintf("a text of %d bytes is too long to be put into UTF-8 here; retrieve the instance", r.Len)}
		}
		b := make([]byte, r.Len)
		if _, err := io.ReadFull(content, b); err != nil {
			return nil, 0, unexpected(err)
		}
		e.Value = b
	}
	if e.VR.IsText() {
		text := strings.Join(ds.Text(e), `\`)
		return strings.NewReader(text), int64(len(text)), nil
	}
	return strings.NewReader(string(e.Value)), int64(len(e.Value)), nil
}

// step is an attribute and, where the path goes on below it, an item from 1.
type step struct {
	tag  dicom.Tag
	item int
}

// bulkPath reads "00420011" or "54000100/1/54001010".
func (l Limits) bulkPath(s string) ([]step, error) {
	bad := badRequest("a bulk data path is a tag of eight hexadecimal digits, or tags with item numbers between: 54000100/1/54001010")
	var path []step
	if len(s) > 24*l.Instance.Depth && l.Instance.Depth > 0 || len(s) > 1<<16 {
		return nil, ErrLimit{"Instance.Depth", int64(l.Instance.Depth)}
	}
	parts := strings.Split(s, "/")
	if len(parts)%2 == 0 {
		return nil, bad
	}
	for i, part := range parts {
		if i%2 == 0 {
			n, err := strconv.ParseUint(part, 16, 32)
			if err != nil || len(part) != 8 {
				return nil, bad
			}
			path = append(path, step{tag: dicom.Tag(n)})
			continue
		}
		n, ok := count(part, 1<<31-1)
		if !ok || n == 0 {
			return nil, bad
		}
		path[len(path)-1].item = n
	}
	return path, nil
}

func find(ds dicom.Dataset, path []step) (dicom.Dataset, dicom.Element, bool) {
	for i, p := range path {
		e, ok := ds.Find(p.tag)
		if !ok {
			return ds, e, false
		}
		if i == len(path)-1 {
			return ds, e, true
		}
		if p.item > len(e.Items) {
			return ds, e, false
		}
		ds = e.Items[p.item-1]
	}
	return ds, dicom.Element{}, false
}
