package cas

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
)

var (
	// ErrUnavailable says that an object store cannot be reached now, or is
	// too busy. The same may be tried again later.
	ErrUnavailable = errors.New("the object store cannot be reached now; try again later")
	// ErrDenied says that an object store does not let this node in, or not
	// do what it needs to.
	ErrDenied = errors.New("the object store refuses this node")
	// ErrBucket says that a bucket, or what gives itself out for its object
	// store, cannot be used as it is.
	ErrBucket = errors.New("the bucket cannot be used")
)

// S3Options say where a store in a bucket is and how it is reached.
type S3Options struct {
	Endpoint string // https://HOST[:PORT]; http only on this machine
	Region   string // us-east-1 if empty
	Bucket   string // must exist
	Prefix   string // of all names in the bucket; may be empty

	AccessKey, SecretKey, SessionToken string

	Existing bool // there must be a store already

	// Roots are the certificates that the endpoint's must be signed by; nil:
	// those of the machine. Transport replaces all of the HTTP client below.
	Roots     *x509.CertPool
	Transport http.RoundTripper

	Parallel int       // requests at the same time; 0: 16
	Retry    S3Retry   // zero values: the defaults
	Rand     io.Reader // for waiting times
	Log      *slog.Logger
}

// String says for people where the bucket is.
func (o S3Options) String() string {
	return fmt.Sprintf("bucket %s at %s", strings.TrimSuffix(o.Bucket+"/"+o.Prefix, "/"), o.Endpoint)
}

// Format hides the secrets from every fmt verb.
func (o S3Options) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// MarshalJSON refuses: JSON is for people and logs.
func (S3Options) MarshalJSON() ([]byte, error) {
	return nil, errors.New("what opens a bucket is not for JSON")
}

// S3Retry bounds how long a request that fails is tried again.
type S3Retry struct {
	Min, Max time.Duration // pause after a failed try: doubling from one to the other, less a random part
	Try      time.Duration // for one try, its whole answer included
	Total    time.Duration // for all of them
}

const (
	s3Parallel  = 16
	s3RetryMin  = 100 * time.Millisecond
	s3RetryMax  = 5 * time.Second
	s3Try       = 45 * time.Second
	s3Total     = time.Minute
	s3Connect   = 10 * time.Second
	s3Answer    = 20 * time.Second // after a request is written
	s3Idle      = 90 * time.Second // a connection between requests
	s3Page      = 1000             // names listed by one request
	s3MaxPages  = 100              // requests for one page: a server may answer with less, or nothing
	s3MaxAnswer = 8 << 20          // bytes of an answer
	s3MaxWhy    = 200              // bytes repeated of what a server says
)

var (
	bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixName = regexp.MustCompile(`^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*([A-Za-z0-9_-][A-Za-z0-9._-]*)?$`)
)

// check fills in what is not given.
func (o *S3Options) check() (*url.URL, error) {
	u, err := url.Parse(o.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoint %q is not an address such as https://s3.example.nhs.uk", o.Endpoint)
	case u.Scheme == "http" && !onThisMachine(u.Hostname()):
		return nil, fmt.Errorf("endpoint %q is not encrypted: others could repeat what they hear; use https://", o.Endpoint)
	case !bucketName.MatchString(o.Bucket):
		return nil, fmt.Errorf("%q is not the name of a bucket: 3 to 63 of a-z, 0-9, dot and hyphen", o.Bucket)
	case !prefixName.MatchString(o.Prefix) || len(o.Prefix) > 256:
		return nil, fmt.Errorf("%q is not a prefix: letters, digits, dot, hyphen and underscore, in parts divided by /", o.Prefix)
	}
	if o.Prefix != "" && !strings.HasSuffix(o.Prefix, "/") {
		o.Prefix += "/"
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Parallel <= 0 {
		o.Parallel = s3Parallel
	}
	for _, d := range []struct {
		of    *time.Duration
		other time.Duration
	}{{&o.Retry.Min, s3RetryMin}, {&o.Retry.Max, s3RetryMax}, {&o.Retry.Try, s3Try}, {&o.Retry.Total, s3Total}} {
		if *d.of <= 0 {
			*d.of = d.other
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return u, nil
}

// CheckS3 says what an operator must mend in what names a bucket.
func CheckS3(endpoint, bucket, prefix string) error {
	_, err := (&S3Options{Endpoint: endpoint, Bucket: bucket, Prefix: prefix}).check()
	return err
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// s3client makes single requests to one bucket, each tried again while that
// may help.
type s3client struct {
	o      S3Options
	prefix string
	core   *minio.Core
	idle   func() // closes connections that are not used
	slots  chan struct{}
	random *sync.Mutex // over o.Rand

	life  context.Context
	end   context.CancelFunc
	state *s3state
}

type s3state struct {
	mu     sync.Mutex
	closed bool
	users  sync.WaitGroup
	reach  reach
}

func newS3client(o S3Options) (*s3client, error) {
	u, err := o.check()
	if err != nil {
		return nil, err
	}
	c := &s3client{o: o, prefix: o.Prefix, slots: make(chan struct{}, o.Parallel), random: new(sync.Mutex), state: new(s3state), idle: func() {}}
	transport := o.Transport
	if transport == nil {
		own := &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: s3Connect}).DialContext,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Roots},
			TLSHandshakeTimeout:   s3Connect,
			ResponseHeaderTimeout: s3Answer,
			IdleConnTimeout:       s3Idle,
			MaxIdleConnsPerHost:   o.Parallel,
			DisableCompression:    true,
			ForceAttemptHTTP2:     true,
		}
		transport, c.idle = own, own.CloseIdleConnections
	}
	core, err := minio.NewCore(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken),
		Secure: u.Scheme == "https", Region: o.Region, Transport: boundedAnswers{transport}, MaxRetries: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBucket, err)
	}
	c.core = core
	c.o.AccessKey, c.o.SecretKey, c.o.SessionToken = "", "", "" // only the client needs them
	c.life, c.end = context.WithCancel(context.Background())
	return c, nil
}

// String says for people where the bucket is.
func (c *s3client) String() string { return c.o.String() }

func (c *s3client) unfit(why string) error { return fmt.Errorf("%w: %s: %s", ErrBucket, c, why) }

func (c *s3client) close() {
	c.state.mu.Lock()
	c.state.closed = true
	c.state.mu.Unlock()
	c.end()
	c.state.users.Wait()
	c.idle()
}

func (c *s3client) begin() bool {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	if !c.state.closed {
		c.state.users.Add(1)
	}
	return !c.state.closed
}

// errAnswer says that a server's answer is one that no object store gives, so
// that asking again does not help.
var errAnswer = errors.New("its answer makes no sense")

// call makes one request, again and again while that may help. What a request
// has found is only good when call returns nil.
func (c *s3client) call(ctx context.Context, what string, request func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !c.begin() {
		return ErrClosed
	}
	defer c.state.users.Done()
	all, cancel := context.WithTimeout(ctx, c.o.Retry.Total)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	ended := func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.life.Err() != nil {
			return ErrClosed
		}
		return nil
	}
	failed := fmt.Errorf("%w: %s in the %s: others were before it for %s", ErrUnavailable, what, c, c.o.Retry.Total)
	pause := c.o.Retry.Min
	long := c.state.reach.long()
	for try := 1; ; try++ {
		// Not while pausing: what cannot be done must not keep others waiting.
		select {
		case c.slots <- struct{}{}:
		case <-all.Done():
			if err := ended(); err != nil {
				return err
			}
			return failed
		}
		one, stop := context.WithTimeout(all, c.o.Retry.Try)
		err := request(one)
		stop()
		<-c.slots
		if err == nil {
			c.state.reach.noted(nil)
			return nil
		}
		if err := ended(); err != nil {
			return err
		}
		err, again := c.judge(what, err)
		c.state.reach.noted(err)
		if !again || long {
			return err
		}
		wait := c.jitter(pause)
		if pause = min(2*pause, c.o.Retry.Max); all.Err() == nil {
			c.o.Log.Debug("a request to the object store failed", "what", what, "try", try, "again_in", wait, "error", err)
			timer := time.NewTimer(wait)
			select {
			case <-all.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
		if eerr := ended(); eerr != nil {
			return eerr
		}
		failed = fmt.Errorf("%w (tried %d times in %s)", err, try, c.o.Retry.Total)
		if all.Err() != nil {
			return failed
		}
	}
}

// jitter is between half of a pause and the whole, so that nodes that failed
// together do not come back together.
func (c *s3client) jitter(pause time.Duration) time.Duration {
	if c.o.Rand == nil {
		return pause
	}
	var b [8]byte
	c.random.Lock()
	_, err := io.ReadFull(c.o.Rand, b[:])
	c.random.Unlock()
	if err != nil {
		return pause
	}
	return pause - time.Duration(binary.BigEndian.Uint64(b[:])%uint64(pause/2+1))
}

// judge names what went wrong, and says whether the same may work later.
func (c *s3client) judge(what string, err error) (named error, again bool) {
	where := fmt.Sprintf("%s in the %s", what, c)
	if errors.Is(err, errAnswer) || errors.Is(err, ErrTooLarge) {
		return fmt.Errorf("%s: %w", where, err), false
	}
	var said minio.ErrorResponse
	if !errors.As(err, &said) {
		var cert *tls.CertificateVerificationError
		if errors.As(err, &cert) {
			return fmt.Errorf("%w: %s: its certificate is not one that this machine trusts: %s", ErrBucket, where, clipped(err.Error())), false
		}
		return fmt.Errorf("%w: %s: %s", ErrUnavailable, where, clipped(err.Error())), true
	}
	why := clipped(fmt.Sprintf("%d %s: %s", said.StatusCode, said.Code, said.Message))
	denied := fmt.Errorf("%w: %s: %s; look at its access key and what that may do", ErrDenied, where, why)
	switch status := said.StatusCode; {
	case said.Code == minio.NoSuchBucket:
		return fmt.Errorf("%w: %s: there is no such bucket; make it first", ErrBucket, where), false
	case said.Code == minio.NoSuchKey, said.Code == "ObjectLockConfigurationNotFoundError":
		return fmt.Errorf("%s: %w", where, fs.ErrNotExist), false
	case status == http.StatusNotFound, said.Code == "InvalidAccessKeyId", said.Code == "SignatureDoesNotMatch", said.Code == "AccessDenied":
		return denied, false // "not found" may be the account, and must not look like a lost block
	case status == http.StatusPreconditionFailed, status == http.StatusNotModified:
		return fmt.Errorf("%s: %w", where, fs.ErrExist), false
	case said.Code == "RequestTimeTooSkewed":
		return fmt.Errorf("%w: %s: the clocks of this machine and of the object store differ too much", ErrDenied, where), false
	case said.Code == "SlowDown", said.Code == "SlowDownRead", said.Code == "SlowDownWrite", said.Code == "RequestTimeout",
		status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusTooEarly, status == http.StatusTooManyRequests,
		status >= 500 && status != http.StatusNotImplemented:
		return fmt.Errorf("%w: %s: %s", ErrUnavailable, where, why), true
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return denied, false
	case status >= 300 && status < 400:
		return fmt.Errorf("%w: %s: it is to be found elsewhere (%s); set endpoint and region to those of the bucket", ErrBucket, where, why), false
	default:
		return fmt.Errorf("%w: %s: %s", ErrBucket, where, why), false
	}
}

// clipped makes text of a server harmless and short.
func clipped(s string) string {
	s = strings.Map(printable, s)
	if len(s) > s3MaxWhy {
		s = s[:s3MaxWhy] + "…"
	}
	return s
}

// boundedAnswers is a transport whose answers end: a server must not fill this
// machine's memory, nor have it ask for ever.
type boundedAnswers struct{ http.RoundTripper }

type pagesKey struct{}

// RoundTrip implements http.RoundTripper.
func (t boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	if left, ok := r.Context().Value(pagesKey{}).(*int); ok {
		if *left--; *left < 0 {
			return nil, fmt.Errorf("%w: a list that does not go on", errAnswer)
		}
	}
	res, err := t.RoundTripper.RoundTrip(r)
	if err == nil && res.Body != nil {
		res.Body = &boundedBody{res.Body, s3MaxAnswer}
	}
	return res, err
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("%w: it does not end after %d bytes", errAnswer, s3MaxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// read gets a whole object of at most so many bytes, or fs.ErrNotExist.
func (c *s3client) read(ctx context.Context, key string, most int64) (out []byte, err error) {
	err = c.call(ctx, "reading", func(ctx context.Context) error {
		body, info, _, err := c.core.GetObject(ctx, c.o.Bucket, key, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size > most {
			return fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrTooLarge, info.Size, most)
		}
		buf := bytes.NewBuffer(make([]byte, 0, max(info.Size, 0)+bytes.MinRead))
		if _, err := buf.ReadFrom(io.LimitReader(body, most+1)); err != nil {
			return err
		}
		if int64(buf.Len()) > most {
			return fmt.Errorf("%w: it has over %d bytes", ErrTooLarge, most)
		}
		out = buf.Bytes()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out[:len(out):len(out)], nil
}

// has says whether there is an object. It asks for a byte of it: an answer
// without a body could not say what is not there, the object or the account.
func (c *s3client) has(ctx context.Context, key string) (bool, error) {
	err := c.call(ctx, "looking", func(ctx context.Context) error {
		var o minio.GetObjectOptions
		if err := o.SetRange(0, 0); err != nil {
			return err
		}
		body, _, _, err := c.core.GetObject(ctx, c.o.Bucket, key, o)
		var said minio.ErrorResponse
		if errors.As(err, &said) && said.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return nil // it is there, and empty
		}
		if err == nil {
			body.Close()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// stat is size and tag of an object that was there a moment ago, or
// fs.ErrNotExist.
func (c *s3client) stat(ctx context.Context, key string) (size int64, etag string, err error) {
	err = c.call(ctx, "looking", func(ctx context.Context) error {
		info, err := c.core.StatObject(ctx, c.o.Bucket, key, minio.StatObjectOptions{})
		size, etag = info.Size, info.ETag
		return err
	})
	return size, etag, err
}

// condition is what a write needs to find, else it is fs.ErrExist.
type condition struct {
	create  bool   // nothing
	replace string // an object with this tag
}

// write puts a whole object, at once or not at all. Its SHA-256 goes with it,
// so that what arrives torn is refused.
func (c *s3client) write(ctx context.Context, key string, data []byte, cond condition) error {
	sum := sha256.Sum256(data)
	var o minio.PutObjectOptions
	o.DisableMultipart = true
	switch {
	case cond.create:
		o.SetMatchETagExcept("*")
	case cond.replace != "":
		o.SetMatchETag(cond.replace)
	}
	return c.call(ctx, "writing", func(ctx context.Context) error {
		info, err := c.core.PutObject(ctx, c.o.Bucket, key, bytes.NewReader(data), int64(len(data)), "", hex.EncodeToString(sum[:]), o)
		if err == nil && info.VersionID != "" && info.VersionID != "null" {
			return fmt.Errorf("%w: %w", errAnswer, c.unfit("it has begun to keep versions, so that nothing in it can be erased; end that, and delete the old versions"))
		}
		return err
	})
}

// remove deletes an object; one that is not there is no error.
func (c *s3client) remove(ctx context.Context, key string) error {
	err := c.call(ctx, "deleting", func(ctx context.Context) error {
		return c.core.RemoveObject(ctx, c.o.Bucket, key, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// destroyAll deletes all objects below a prefix.
func (c *s3client) destroyAll(ctx context.Context, prefix string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Parallel)
	err := c.list(gctx, prefix, "", true, func(name string, _ int64) error {
		g.Go(func() error { return c.remove(gctx, name) })
		return nil
	})
	if gerr := g.Wait(); gerr != nil {
		err = gerr
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// list calls fn with the names that begin with prefix, in order, beginning
// behind after. If it is not deep, names are cut behind the next "/", and each
// comes once. fn may use the bucket.
func (c *s3client) list(ctx context.Context, prefix, after string, deep bool, fn func(name string, size int64) error) error {
	for {
		page, more, err := c.page(ctx, prefix, after, deep)
		if err != nil {
			return err
		}
		for _, o := range page {
			if err := ctx.Err(); err != nil {
				return err
			}
			if !strings.HasPrefix(o.Key, prefix) || o.Key <= after {
				return c.unfit("its object store does not list names in order")
			}
			after = o.Key
			if err := fn(o.Key, o.Size); err != nil {
				return err
			}
		}
		if !more {
			return ctx.Err()
		}
		if !deep {
			after = strings.TrimSuffix(after, "/") + "0" // behind all that begins with it
		}
	}
}

func (c *s3client) page(ctx context.Context, prefix, after string, deep bool) (page []minio.ObjectInfo, more bool, err error) {
	owner := false
	err = c.call(ctx, "listing", func(ctx context.Context) error {
		page, more = page[:0], false
		left := s3MaxPages
		ctx = context.WithValue(ctx, pagesKey{}, &left)
		for o := range c.core.ListObjectsIter(ctx, c.o.Bucket, minio.ListObjectsOptions{
			Prefix: prefix, StartAfter: after, Recursive: deep, MaxKeys: s3Page, FetchOwner: &owner,
		}) {
			if o.Err != nil {
				return o.Err
			}
			if page = append(page, o); len(page) == s3Page {
				more = true
				break
			}
		}
		return ctx.Err() // a list that is given up ends like a whole one
	})
	// Where names are cut, whole ones come before those.
	slices.SortStableFunc(page, func(a, b minio.ObjectInfo) int {
		if deep {
			return 0
		}
		return strings.Compare(a.Key, b.Key)
	})
	return page, more, err
}

// erasable refuses a bucket in which what is deleted lives on.
func (c *s3client) erasable(ctx context.Context) error {
	var versions minio.BucketVersioningConfiguration
	err := c.call(ctx, "asking for versioning", func(ctx context.Context) (err error) {
		versions, err = c.core.GetBucketVersioning(ctx, c.o.Bucket)
		return absent(err, "NotImplemented")
	})
	if err != nil {
		return err
	}
	if versions.Status != "" { // Suspended: what was there before lives on
		return c.unfit(fmt.Sprintf("it keeps versions of what is deleted (versioning is %s), so that nothing in it can be erased: use a bucket that never had versioning", clipped(versions.Status)))
	}
	lock := ""
	err = c.call(ctx, "asking for object lock", func(ctx context.Context) (err error) {
		lock, _, _, _, err = c.core.GetObjectLockConfig(ctx, c.o.Bucket)
		return absent(err, "NotImplemented")
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if lock != "" {
		return c.unfit("object lock keeps what is in it from being deleted, so that nothing in it can be erased: use a bucket without")
	}
	return nil
}

// absent passes over errors that say that a server has no such thing.
func absent(err error, codes ...string) error {
	var said minio.ErrorResponse
	if errors.As(err, &said) {
		for _, code := range codes {
			if said.Code == code {
				return nil
			}
		}
	}
	return err
}
