package dicomweb

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/priormesh/priormesh/dicom"
)

const (
	tagErrorComment          dicom.Tag = 0x00000902
	tagReferencedSOPClass    dicom.Tag = 0x00081150
	tagReferencedSOPInstance dicom.Tag = 0x00081155
	tagFailureReason         dicom.Tag = 0x00081197
	tagFailedSOPSequence     dicom.Tag = 0x00081198
	tagReferencedSOPSequence dicom.Tag = 0x00081199
	tagOtherFailuresSequence dicom.Tag = 0x0008119A
)

// store answers STOW-RS, PS3.18 10.5. One bad part harms no other.
//
// The answer is DICOM JSON whatever the Accept header says (RFC 9110 12.5.1
// leaves that to the server): to refuse images because of the form of the
// receipt would lose them.
func (s *server) store(w http.ResponseWriter, r *http.Request, ref Ref) error {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return &problem{http.StatusUnsupportedMediaType, "an encoded request body is not supported; send it without Content-Encoding"}
	}
	single, boundary, err := storeType(r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	tooLarge := ErrLimit{"Request", s.Limits.Request}
	if r.ContentLength > s.Limits.Request {
		return &problem{http.StatusRequestEntityTooLarge, tooLarge.Error()}
	}
	in := &storing{s: s, ctx: r.Context(), study: ref.Study, body: &meter{src: bufio.NewReaderSize(r.Body, readAhead), total: tooLarge, left: s.Limits.Request}, finishing: make(chan struct{}, maxFinishing)}
	if single {
		in.part(in.body)
	} else {
		in.parts(boundary)
	}
	in.settle()
	if err := in.ctx.Err(); err != nil {
		return err // nobody is there to be answered
	}
	return in.answer(w, s.base(r))
}

// storeType reads the Content-Type of a store request.
func storeType(text string) (single bool, boundary string, err error) {
	unsupported := func(what string) error {
		return &problem{http.StatusUnsupportedMediaType, what + `; send multipart/related; type="application/dicom" with one instance a part, or one instance as application/dicom`}
	}
	name, params := cutQuoted(text, ';')
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case dicomFile:
		return true, "", nil
	case related:
	case "":
		return false, "", unsupported("the request has no Content-Type")
	default:
		return false, "", unsupported("this Content-Type is not supported")
	}
	inner := dicomFile
	for params != "" {
		var p string
		p, params = cutQuoted(params, ';')
		key, value, _ := strings.Cut(p, "=")
		value = unquote(strings.TrimSpace(value))
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "type":
			inner = strings.ToLower(value)
		case "boundary":
			boundary = value
		}
	}
	if inner != dicomFile {
		return false, "", unsupported("metadata and bulk data apart from each other are not supported, nor anything else but whole instances")
	}
	if !validBoundary(boundary) {
		return false, "", badRequest("the Content-Type has no boundary as RFC 2046 5.1.1 wants it, of 1 to 128 characters")
	}
	return false, boundary, nil
}

// maxBoundary is more than the 70 characters of RFC 2046 5.1.1: Orthanc's
// DICOMweb client sends 73.
const maxBoundary = 128

func validBoundary(b string) bool {
	for _, c := range []byte(b) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && strings.IndexByte("'()+_,-./:=? ", c) < 0 {
			return false
		}
	}
	return len(b) >= 1 && len(b) <= maxBoundary && b[len(b)-1] != ' '
}

// meter counts what is read of a request body.
type meter struct {
	src   io.Reader
	total ErrLimit
	left  int64
	// between, while not negative, is how much may still be read up to the next
	// part's content.
	between    int64
	inBetween  bool
	betweenErr ErrLimit
	err        error // the first that was not io.EOF
}

func (m *meter) Read(b []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	if m.left <= 0 {
		// One byte more tells a body of just the limit from a longer one.
		var more [1]byte
		if n, err := io.ReadFull(m.src, more[:]); n == 0 {
			return 0, err
		}
		m.err = m.total
		return 0, m.err
	}
	if m.inBetween && m.between <= 0 {
		m.err = m.betweenErr
		return 0, m.err
	}
	b = b[:min(int64(len(b)), m.left)]
	n, err := m.src.Read(b)
	m.left -= int64(n)
	m.between -= int64(n)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// storing is one store request.
type storing struct {
	s        *server
	ctx      context.Context
	study    dicom.UID
	body     *meter
	outcomes []*outcome // in the order of the parts; whole after settle
	broken   error      // why the request could not be read to its end
	count    int
	stored   int

	finishing chan struct{} // one for each part whose bytes are read and not yet durable
	under     sync.WaitGroup
}

// readAhead is how much of a body is read at a time: package multipart would
// read 4 KiB, and so a hundred times for one slice of a CT. It is read before it
// is metered, so that the limit of a part's header is what it says.
const readAhead = 64 << 10

// maxFinishing is how many parts of a request are read and not yet durable.
const maxFinishing = 4

// settle waits for the outcomes.
func (in *storing) settle() {
	in.under.Wait()
	for _, o := range in.outcomes {
		if o.err == nil {
			in.stored++
		}
	}
}

// outcome is what became of a part.
type outcome struct {
	Stored
	err  error // nil: stored
	code Code
	text string
}

func (in *storing) parts(boundary string) {
	mr := multipart.NewReader(in.body, boundary)
	header := ErrLimit{"PartHeader", int64(in.s.Limits.PartHeader)}
	for {
		in.body.inBetween, in.body.between, in.body.betweenErr = true, header.Limit, header
		// The raw part: transfer encodings are for mail, and undoing one would
		// change the bytes.
		p, err := mr.NextRawPart()
		in.body.inBetween = false
		switch {
		case err == io.EOF:
			return
		case in.body.err != nil:
			in.broken = in.body.err
			return
		case errors.Is(err, multipart.ErrMessageTooLarge):
			in.broken = header
			return
		case err != nil:
			in.broken = badRequest("the multipart body cannot be read after part %d: it ends without its closing boundary, or a part's header is none; send it again", in.count)
			return
		}
		if in.count == in.s.Limits.Parts {
			in.broken = ErrLimit{"Parts", int64(in.s.Limits.Parts)}
			return
		}
		if err := partType(p); err != nil {
			in.count++
			o := in.outcome(in.count, Stored{}, err)
			in.outcomes = append(in.outcomes, &o)
		} else {
			in.part(p)
		}
		if in.broken == nil {
			if _, err := io.Copy(io.Discard, p); err != nil {
				in.broken = cause(in.body, err)
			}
		}
		if in.broken != nil {
			return
		}
	}
}

// partType refuses parts that say they are something else than an instance.
func partType(p *multipart.Part) error {
	name, _ := cutQuoted(p.Header.Get("Content-Type"), ';')
	switch name = strings.ToLower(strings.TrimSpace(name)); name {
	case "", dicomFile:
	default:
		return &Refused{"the part is not application/dicom; send whole instances only", CodeCannotUnderstand}
	}
	switch strings.ToLower(strings.TrimSpace(p.Header.Get("Content-Transfer-Encoding"))) {
	case "", "binary", "8bit", "7bit":
		return nil
	}
	return &Refused{"the part has a Content-Transfer-Encoding; send it as it is (binary)", CodeCannotUnderstand}
}

// part stores one instance and reads its part to the end. The disk's share of
// the work goes on while the next part is read.
func (in *storing) part(r io.Reader) {
	in.count++
	number := in.count
	pr := &partReader{src: r, left: in.s.Limits.Part, limit: ErrLimit{"Part", in.s.Limits.Part}}
	finish := in.s.archive.Store(in.ctx, in.study, pr)
	unread := int64(0)
	if pr.err == nil {
		unread, _ = io.Copy(io.Discard, pr) // of an instance that was refused early
	}
	cut := pr.err
	if cut != nil && cut != error(pr.limit) {
		in.broken = cause(in.body, cut)
		cut = in.broken
	}
	o := &outcome{}
	in.outcomes = append(in.outcomes, o)
	in.finishing <- struct{}{}
	in.under.Go(func() {
		defer func() { <-in.finishing }()
		got, err := finish()
		switch {
		case cut != nil: // whatever the archive made of it, the part did not arrive whole
			err = cut
		case err == nil && unread > 0:
			err = fmt.Errorf("the archive left %d bytes of an instance unread", unread)
		}
		*o = in.outcome(number, got, err)
	})
}

// cause is why a request body ended early.
func cause(m *meter, err error) error {
	if m.err != nil {
		err = m.err
	}
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		return badRequest("the body ends before its closing boundary; send it again")
	}
	return err
}

// partReader gives the content of a part as far as it may be long.
type partReader struct {
	src   io.Reader
	left  int64
	limit ErrLimit
	err   error // the first that was not io.EOF
}

func (p *partReader) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if int64(len(b)) > p.left+1 {
		b = b[:p.left+1]
	}
	n, err := p.src.Read(b)
	if p.left -= int64(n); p.left < 0 {
		n, err = n-1, p.limit
	}
	if err != nil && err != io.EOF {
		p.err = err
	}
	return n, err
}

// outcome words what became of a part. Parts finish side by side, so it
// touches nothing that is theirs together.
func (in *storing) outcome(part int, got Stored, err error) outcome {
	if err == nil {
		return outcome{Stored: got}
	}
	code, text, known := reason(err)
	if !known && in.ctx.Err() == nil {
		in.s.Log.Error("instance not stored", "study", short(got.UIDs.Study), "instance", short(got.UIDs.Instance), "error", err)
	}
	return outcome{got, err, code, fmt.Sprintf("part %d: %s", part, text)}
}

// reason is the Failure Reason for an error of Archive.Store (PS3.18 Table
// I.2-2, which allows further codes: 0111 for a UID that is taken), and what to
// tell the sender. known is false for what only the log may say.
func reason(err error) (code Code, text string, known bool) {
	var (
		conflict  *Conflict
		refused   *Refused
		wait      *Unavailable
		limit     ErrLimit
		p         *problem
		missing   dicom.ErrMissingUID
		tooMuch   dicom.ErrLimit
		malformed dicom.ErrMalformed
	)
	switch {
	case errors.As(err, &conflict):
		return CodeDuplicate, conflict.Error(), true
	case errors.As(err, &refused):
		if refused.Code == 0 {
			return CodeProcessingFailure, refused.Reason, true
		}
		return refused.Code, refused.Reason, true
	case noSpace(err):
		return CodeOutOfResources, ErrNoSpace.Error(), true
	case errors.As(err, &wait):
		return CodeOutOfResources, wait.Reason, true
	case errors.As(err, &limit):
		return CodeOutOfResources, limit.Error(), true
	case errors.As(err, &p):
		return CodeProcessingFailure, p.text, true
	case errors.As(err, &tooMuch):
		return CodeOutOfResources, tooMuch.Error(), true
	case errors.As(err, &missing):
		return CodeCannotUnderstand, missing.Error(), true
	case errors.As(err, &malformed):
		return CodeCannotUnderstand, malformed.Error(), true
	case errors.Is(err, dicom.ErrNotDICOM):
		return CodeCannotUnderstand, dicom.ErrNotDICOM.Error(), true
	case errors.Is(err, dicom.ErrTruncated):
		return CodeCannotUnderstand, dicom.ErrTruncated.Error(), true
	case errors.Is(err, dicom.ErrMediaDirectory):
		return CodeCannotUnderstand, dicom.ErrMediaDirectory.Error(), true
	}
	return CodeProcessingFailure, "the node could not store this; its log says why; send it again, and tell its operator if it stays so", false
}

// status is that of PS3.18 Table 10.5.3-1, and says more where all failed for
// one cause that the sender can wait out.
func (in *storing) status(h http.Header) int {
	failures := len(in.outcomes) - in.stored
	switch {
	case in.stored > 0 && failures == 0 && in.broken == nil:
		return http.StatusOK
	case in.stored > 0:
		return http.StatusAccepted
	}
	var limit ErrLimit
	if errors.As(in.broken, &limit) {
		return http.StatusRequestEntityTooLarge
	}
	var bad *problem
	if errors.As(in.broken, &bad) {
		return bad.status
	}
	space, waiting, large := 0, 0, 0
	var longest time.Duration
	for _, o := range in.outcomes {
		var wait *Unavailable
		switch {
		case noSpace(o.err):
			space++
		case errors.As(o.err, &wait):
			waiting++
			longest = max(longest, wait.RetryAfter)
		case errors.As(o.err, &limit):
			large++
		}
	}
	switch failures {
	case space:
		return http.StatusInsufficientStorage
	case waiting:
		if longest > 0 {
			h.Set("Retry-After", strconv.FormatInt(int64((longest+time.Second-1)/time.Second), 10))
		}
		return http.StatusServiceUnavailable
	case large:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusConflict
}

// answer writes the Store Instances Response Module, PS3.18 I.2. The reason of
// each failure is there as Failure Reason and, shortened to what LO holds, as
// Error Comment; the first ones in full as Warning headers.
func (in *storing) answer(w http.ResponseWriter, base string) error {
	if in.count == 0 {
		if in.broken != nil {
			return refusedBody(in.broken)
		}
		return badRequest("the multipart body has no parts; nothing was stored")
	}
	var (
		stored, failed, other []dicom.Dataset
		warnings              []string
		study                 dicom.UID
		studies               int
	)
	for _, o := range in.outcomes {
		u := o.UIDs
		var item []dicom.Element
		if u.Instance != "" {
			item = []dicom.Element{
				textElement(tagReferencedSOPClass, dicom.UI, string(u.Class)),
				textElement(tagReferencedSOPInstance, dicom.UI, string(u.Instance)),
			}
		}
		if o.err == nil {
			if studies == 0 || u.Study != study {
				study = u.Study
				studies++
			}
			stored = append(stored, dicom.Dataset{Elements: append(item, textElement(tagRetrieveURL, dicom.UR, refTo(u).url(base)))})
			continue
		}
		warnings = append(warnings, o.text)
		item = append(item,
			dicom.Element{Tag: tagFailureReason, VR: dicom.US, Value: binary.LittleEndian.AppendUint16(nil, uint16(o.code))},
			textElement(tagErrorComment, dicom.LO, shortened(o.text)))
		if u.Instance != "" {
			failed = append(failed, dicom.Dataset{Elements: item})
		} else {
			other = append(other, dicom.Dataset{Elements: item})
		}
	}
	var ds dicom.Dataset
	if studies == 1 {
		ds.Elements = append(ds.Elements, textElement(tagRetrieveURL, dicom.UR, Ref{Study: study}.url(base)))
	}
	for _, sq := range []struct {
		tag   dicom.Tag
		items []dicom.Dataset
	}{{tagFailedSOPSequence, failed}, {tagReferencedSOPSequence, stored}, {tagOtherFailuresSequence, other}} {
		if len(sq.items) > 0 {
			ds.Elements = append(ds.Elements, dicom.Element{Tag: sq.tag, VR: dicom.SQ, Items: sq.items})
		}
	}
	if in.broken != nil {
		w.Header().Set("Connection", "close") // see fail
		_, text, _ := reason(in.broken)
		warnings = append([]string{fmt.Sprintf("what follows part %d was not read: %s", in.count, text)}, warnings...)
	}
	if len(warnings) > 0 {
		in.s.Log.Warn("not all of a store request was stored", "study", short(in.study), "stored", in.stored, "failed", len(in.outcomes)-in.stored, "first", warnings[0])
	}
	in.s.warn(w, warnings)
	h := w.Header()
	status := in.status(h)
	h.Set("Content-Type", dicomJSON)
	w.WriteHeader(status)
	_, err := w.Write(jsonModel{}.append(nil, ds, ""))
	return err
}

// refusedBody is a request of which nothing could be read.
func refusedBody(err error) error {
	var limit ErrLimit
	if errors.As(err, &limit) {
		return &problem{http.StatusRequestEntityTooLarge, limit.Error()}
	}
	return err
}

// shortened cuts a text to the 64 characters of LO, between words.
func shortened(s string) string {
	const most = 64
	s = strings.Map(func(r rune) rune {
		if r == '\\' || r < ' ' {
			return ' '
		}
		return r
	}, s)
	r := []rune(s)
	if len(r) <= most {
		return s
	}
	s = string(r[:most-1])
	if i := strings.LastIndexByte(s, ' '); i > most/2 {
		s = s[:i]
	}
	return s + "…"
}
