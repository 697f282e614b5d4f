package dicomweb

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/priormesh/priormesh/dicom"
)

// retrieve answers WADO-RS for a study, a series or an instance, PS3.18 10.4.
func (s *server) retrieve(w http.ResponseWriter, r *http.Request, ref Ref) error {
	ctx := r.Context()
	accept, err := s.accept(r)
	if err != nil {
		return err
	}
	if ref.Instance == "" && accept.picky() {
		if err := s.checkAll(ctx, ref, accept); err != nil {
			return err
		}
	}
	out := s.newSender(w, r)
	defer out.release()
	for o, err := range s.archive.Objects(ctx, ref) {
		if err != nil {
			return err
		}
		u := o.UIDs()
		offers := instanceOffers(u.TransferSyntax, ref.Instance != "")
		chosen, name, ok := accept.choose(offers)
		if !ok {
			return notAcceptable(offers)
		}
		rc, err := o.Open(ctx)
		if err != nil {
			return err
		}
		if ref.Instance == "" && !out.begun {
			s.warn(w, s.archive.Completeness(ctx, ref))
		}
		err = out.send(chosen, name, refTo(u).url(s.base(r)), rc, o.Size())
		rc.Close()
		if err != nil {
			return err
		}
		if out.done {
			return nil
		}
	}
	return out.close()
}

// instanceOffers are the forms of an instance encoded in u. Only an instance
// asked for by its own address can come without multipart, PS3.18 8.7.4.
func instanceOffers(u dicom.TransferSyntax, alone bool) []offer {
	o := offer{multipart: true, names: []string{dicomFile}}
	if u != "" {
		o.syntaxes = []dicom.UID{u}
	}
	if !alone {
		return []offer{o}
	}
	single := o
	single.multipart = false
	return []offer{o, single}
}

// picky says that what is acceptable depends on the transfer syntax.
func (a accepted) picky() bool {
	for _, m := range a {
		if m.syntax != "" && m.syntax != "*" {
			return true
		}
	}
	return false
}

// checkAll refuses before the first byte what would have to be broken off
// later: a study of which some instances are in no acceptable syntax.
func (s *server) checkAll(ctx context.Context, ref Ref, accept accepted) error {
	var refused []offer
	seen := make(map[dicom.UID]bool)
	for o, err := range s.archive.Headers(ctx, ref) { // which are read next
		if err != nil {
			return err
		}
		u := o.UIDs().TransferSyntax
		if seen[u] {
			continue
		}
		seen[u] = true
		offers := instanceOffers(u, false)
		if _, _, ok := accept.choose(offers); !ok {
			refused = append(refused, offers...)
		}
	}
	if len(refused) > 0 {
		return notAcceptable(refused)
	}
	return nil
}

// sender writes what was chosen: one body, or parts of a multipart/related one
// (PS3.18 8.6.1). The answer begins with the first bytes that could be read, so
// that what fails before them still becomes an error.
type sender struct {
	s     *server
	w     http.ResponseWriter
	r     *http.Request
	buf   *[]byte
	mw    *multipart.Writer
	begun bool
	done  bool // nothing more is to be sent
}

func (s *server) newSender(w http.ResponseWriter, r *http.Request) *sender {
	return &sender{s: s, w: w, r: r, buf: s.buffers.Get().(*[]byte)}
}

func (o *sender) release() { o.s.buffers.Put(o.buf) }

// send writes the content of r, size bytes of it, or all where size is -1.
func (o *sender) send(as offer, name, location string, r io.Reader, size int64) error {
	if o.done {
		return nil
	}
	buf := *o.buf
	n, ended := 0, false
	for n < len(buf) && !ended {
		m, err := r.Read(buf[n:])
		n += m
		if ended = err == io.EOF; err != nil && !ended {
			return err
		}
	}
	if size >= 0 && (int64(n) > size || ended && int64(n) < size) {
		return fmt.Errorf("content is not the %d bytes that were announced: %w", size, io.ErrUnexpectedEOF)
	}
	if !as.multipart {
		o.done = true
	}
	if !o.begun {
		if err := o.begin(as, name, size); err != nil {
			return err
		}
		if o.r.Method == http.MethodHead {
			o.done = true
			return nil
		}
	}
	dst := io.Writer(o.w)
	if as.multipart {
		h := textproto.MIMEHeader{"Content-Type": {as.contentType(name)}}
		if location != "" {
			h.Set("Content-Location", location)
		}
		var err error
		if dst, err = o.mw.CreatePart(h); err != nil {
			return err
		}
	}
	if _, err := dst.Write(buf[:n]); err != nil {
		return err
	}
	sent := int64(n)
	if !ended {
		more, err := io.CopyBuffer(dst, r, buf)
		if err != nil {
			return err
		}
		sent += more
	}
	if size >= 0 && sent != size {
		return fmt.Errorf("content ended after %d of %d bytes: %w", sent, size, io.ErrUnexpectedEOF)
	}
	// A reader of a study that is still on its way sees each instance at once.
	if err := http.NewResponseController(o.w).Flush(); err != nil && as.multipart {
		return err
	}
	return nil
}

func (o *sender) begin(as offer, name string, size int64) error {
	o.begun = true
	h := o.w.Header()
	if !as.multipart {
		h.Set("Content-Type", as.contentType(name))
		if name != "application/pdf" { // which browsers do not show in a sandbox
			// A document says its own media type. If that is HTML it must not run
			// as if it were a page of this node's.
			h.Set("Content-Security-Policy", "sandbox")
		}
		if size >= 0 {
			h.Set("Content-Length", strconv.FormatInt(size, 10))
		}
		o.w.WriteHeader(http.StatusOK)
		return nil
	}
	var b [24]byte
	if _, err := io.ReadFull(o.s.Rand, b[:]); err != nil {
		return err
	}
	o.mw = multipart.NewWriter(o.w)
	if err := o.mw.SetBoundary(hex.EncodeToString(b[:])); err != nil {
		return err
	}
	h.Set("Content-Type", related+`; type="`+name+`"; boundary=`+o.mw.Boundary())
	o.w.WriteHeader(http.StatusOK)
	return nil
}

// close ends the answer. With nothing sent, nothing was found.
func (o *sender) close() error {
	switch {
	case !o.begun:
		return ErrNotFound
	case o.done:
		return nil
	}
	return o.mw.Close()
}

// frames answers WADO-RS for frames, PS3.18 10.4.1.1.6.
func (s *server) frames(w http.ResponseWriter, r *http.Request, ref Ref) error {
	ctx := r.Context()
	accept, err := s.accept(r)
	if err != nil {
		return err
	}
	numbers, err := s.Limits.frameList(r.PathValue("frames"))
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
	if err := in.haveFrames(numbers); err != nil {
		return err
	}
	offers := pixelOffers(in, len(numbers) == 1)
	chosen, name, ok := accept.choose(offers)
	if !ok {
		return notAcceptable(offers)
	}
	out := s.newSender(w, r)
	defer out.release()
	for _, n := range numbers {
		content, err := in.frame(n - 1)
		if err != nil {
			return err
		}
		if err := out.send(chosen, name, ref.url(s.base(r))+"/frames/"+strconv.Itoa(n), content, -1); err != nil {
			return err
		}
	}
	return out.close()
}

func pixelOffers(in *instance, single bool) []offer {
	u, enc := in.uids.TransferSyntax, in.layout.Encapsulated
	if !single {
		return []offer{pixelOffer(u, enc, true)}
	}
	return []offer{pixelOffer(u, enc, true), pixelOffer(u, enc, false)}
}

// haveFrames checks that each frame can be found by itself.
func (in *instance) haveFrames(numbers []int) error {
	l := in.layout
	if !l.Pixels || l.NumFrames == 0 {
		return &problem{http.StatusNotFound, "this instance has no frames; retrieve the instance, or its metadata"}
	}
	if l.Encapsulated && l.NumFrames == 1 {
		// One frame, or several that cannot be told apart: video, or no usable
		// offset table.
		ds, err := in.header()
		if err != nil {
			return err
		}
		if n, ok := ds.Int(dicom.TagNumberOfFrames); ok && n > 1 {
			return &problem{http.StatusNotAcceptable, fmt.Sprintf("the %d frames of this instance cannot be told apart without decoding them; retrieve the instance, or its pixel data whole as /bulkdata/7FE00010", n)}
		}
	}
	for _, n := range numbers {
		if n > l.NumFrames {
			return &problem{http.StatusNotFound, fmt.Sprintf("no frame %d: this instance has %d", n, l.NumFrames)}
		}
	}
	return nil
}

// frameList reads "1,3,2": numbers from 1, in the order they are wanted, none
// twice.
func (l Limits) frameList(s string) ([]int, error) {
	if strings.Count(s, ",") >= l.Frames {
		return nil, ErrLimit{"Frames", int64(l.Frames)}
	}
	var list []int
	seen := make(map[int]bool)
	for item := range strings.SplitSeq(s, ",") {
		n, ok := count(strings.TrimSpace(item), 1<<31-1)
		if !ok || n == 0 {
			return nil, badRequest("frames are asked for by number from 1 up, with commas between")
		}
		if seen[n] {
			return nil, badRequest("frame %d is asked for twice", n)
		}
		seen[n] = true
		list = append(list, n)
	}
	return list, nil
}
