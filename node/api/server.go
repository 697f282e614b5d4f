package api

import (
	"context"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomweb"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// Limits on what a request may hold.
const (
	maxInstance = 16 << 30 // bytes of one instance
	maxBody     = 1 << 20  // bytes of any other body
	maxFind     = 1000     // studies in one answer
	maxReason   = 1 << 10  // bytes of why a study is pinned
)

// Node is what the API asks of the node around it.
type Node interface {
	Status(context.Context) (Status, error)
	Peers() []Peer
	// Admit endorses the trust that a card names. Its errors are for people.
	Admit(ctx context.Context, card string) (Admission, error)
	// Expel votes for the expulsion of a trust, and Revoke takes a trust's
	// word that a node is not its own any more. Their errors are for people.
	Expel(ctx context.Context, trust string) (Expulsion, error)
	Revoke(ctx context.Context, revocation string) (Revocation, error)
	// Link says something of two identifiers of patients, or shows what is said.
	// Its errors are for people.
	Link(ctx context.Context, r LinkRequest) (Link, error)
	// Silence has one text for each trust that was not heard from.
	Silence() []string
	// Basis is what answers rest on.
	Basis() []Basis
	// Ready says why the node cannot serve yet; nil when it can.
	Ready() error
	// Hampered has one text for each thing that a node which serves cannot do
	// just now.
	Hampered() []string
	// Backup writes a backup of the home and returns when it is complete.
	Backup(ctx context.Context, r BackupRequest, progress func(BackupProgress)) (Backup, error)
}

// ErrWrongUse is wrapped by errors that the caller's request caused.
var ErrWrongUse = errors.New("the request cannot be carried out as it is")

// Options are the handler's parts.
type Options struct {
	Node    Node
	Archive *archive.Archive
	Token   string // admits to the operator API
	BaseURL string // what clients see before /dicom-web; empty: as they wrote it
	Metrics prometheus.Gatherer
	Log     *slog.Logger
	Limits  dicom.Limits
	// Loopback says that the node listens for this machine alone. Then only
	// this machine's names may be asked for, or a page that a browser here has
	// loaded could read everything by naming the node after itself (DNS rebinding).
	Loopback bool
	// Stopping ends when the node does: what may take hours then ends at once.
	Stopping context.Context
}

type server struct {
	Options
	turns *turns
}

// New makes a node's whole HTTP face.
func New(o Options) http.Handler {
	s := &server{o, newTurns(maxSearching, maxWaiting, o.Stopping)}
	mux := http.NewServeMux()
	base := ""
	if o.BaseURL != "" {
		base = strings.TrimSuffix(o.BaseURL, "/") + "/dicom-web"
	}
	web := dicomweb.New(web{archive: o.Archive, silence: o.Node.Silence, pages: newPages(), turns: s.turns},
		dicomweb.Options{Log: o.Log, Prefix: "/dicom-web", BaseURL: base, Limits: dicomweb.Limits{Instance: o.Limits, Results: index.MaxPage}})
	mux.Handle("/dicom-web/", http.StripPrefix("/dicom-web", web))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := o.Node.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		// A node that can be read from is ready, or its images would be cut off
		// with it.
		io.WriteString(w, "ready\n")
		for _, text := range o.Node.Hampered() {
			fmt.Fprintf(w, "but %s\n", text)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /{$}", s.page)

	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST /api/v1/instances":         s.instance,
		"GET /api/v1/studies":            s.studies,
		"POST /api/v1/fetches":           s.fetch,
		"GET /api/v1/fetches":            s.fetches,
		"GET /api/v1/fetches/{study}":    s.fetchStatus,
		"DELETE /api/v1/fetches/{study}": s.cancel,
		"POST /api/v1/erasures":          s.erase,
		"GET /api/v1/erasures/{study}":   s.erasure,
		"GET /api/v1/status":             s.status,
		"GET /api/v1/peers":              func(w http.ResponseWriter, _ *http.Request) error { return answer(w, 200, o.Node.Peers()) },
		"POST /api/v1/admissions":        s.admit,
		"POST /api/v1/expulsions":        s.expel,
		"POST /api/v1/revocations":       s.revoke,
		"POST /api/v1/links":             s.link,
		"POST /api/v1/verifications":     s.verify,
		"POST /api/v1/backups":           s.backup,
		"POST /api/v1/pins":              s.pin,
		"GET /api/v1/pins":               s.pins,
		"DELETE /api/v1/pins/{study}":    s.unpin,
	} {
		mux.HandleFunc(pattern, s.operator(asked(h, parameters[pattern]...)))
	}
	return moving(s.namedRight(mux), stallAfter)
}

// namedRight refuses a request that asks for a host which this node is not.
func (s *server) namedRight(h http.Handler) http.Handler {
	proxy := ""
	if u, err := url.Parse(s.BaseURL); err == nil {
		proxy = u.Hostname()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if s.Loopback && net.ParseIP(strings.Trim(host, "[]")) == nil && !strings.EqualFold(host, "localhost") && (proxy == "" || !strings.EqualFold(host, proxy)) {
			http.Error(w, "this node does not go by that name; if a proxy stands before it, set base_url in config.toml to what clients use", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}

func (s *server) page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "Priormesh node\n\nDICOMweb        /dicom-web\noperator API    /api/v1   (needs the home folder's operator token)\nmetrics         /metrics\nhealth          /healthz /readyz\n")
}

// operator lets the holder of the token in and turns errors into answers.
func (s *server) operator(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || s.Token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(s.Token)) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, http.StatusUnauthorized, "the operator API needs the token in the node's home folder (operator.token) as a Bearer token")
			return
		}
		if r.URL.Path != "/api/v1/instances" {
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		err := h(w, r)
		var tooLarge *http.MaxBytesError
		var query *archive.BadQuery
		var wait *archive.Unavailable
		switch {
		case err == nil:
		case errors.As(err, &wait):
			retryAfter(w, wait)
			fail(w, http.StatusServiceUnavailable, wait.Reason)
		case errors.As(err, &tooLarge):
			fail(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("the request is over the limit of %d MiB", tooLarge.Limit>>20))
		case errors.Is(err, archive.ErrNotFound):
			fail(w, http.StatusNotFound, "no trust in the region says that it has such a study; check the Study Instance UID, and `priormesh status` for trusts that were not heard from")
		case noSpace(err):
			fail(w, http.StatusInsufficientStorage, err.Error())
		case errors.Is(err, cas.ErrUnavailable):
			fail(w, http.StatusServiceUnavailable, err.Error())
		case errors.Is(err, archive.ErrVerifying):
			fail(w, http.StatusConflict, err.Error())
		case errors.As(err, &query):
			fail(w, http.StatusBadRequest, fmt.Errorf("%w: %w", ErrWrongUse, err).Error())
		case errors.Is(err, ErrWrongUse):
			fail(w, http.StatusBadRequest, err.Error())
		case r.Context().Err() != nil:
			// The caller has gone.
		default:
			s.Log.Error("operator request failed", "route", r.Pattern, "error", err) // the path may have a UID in it
			fail(w, http.StatusInternalServerError, err.Error())
		}
	}
}

func answer(w http.ResponseWriter, code int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	return json.NewEncoder(w).Encode(v)
}

func retryAfter(w http.ResponseWriter, wait *archive.Unavailable) {
	if wait.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait.RetryAfter+time.Second-1)/time.Second), 10))
	}
}

func fail(w http.ResponseWriter, code int, text string) {
	_ = answer(w, code, map[string]string{"error": text})
}

func (s *server) instance(w http.ResponseWriter, r *http.Request) error {
	arrival, err := flag(r.URL.Query(), "arrival")
	if err != nil {
		return err
	}
	got, err := s.Archive.Ingest(r.Context(), http.MaxBytesReader(w, r.Body, maxInstance),
		archive.IngestOptions{Arrival: arrival})
	receipt := Receipt{Outcome: Stored, Study: string(got.UIDs.Study), Series: string(got.UIDs.Series), Instance: string(got.UIDs.Instance), Bytes: got.Size, MixedPatient: got.Mixed}
	if err == nil {
		if got.Duplicate {
			receipt.Outcome = Duplicate
		}
		receipt.SHA256 = hex.EncodeToString(got.SHA256[:])
		return answer(w, http.StatusOK, receipt)
	}
	code := http.StatusInternalServerError
	why, refused := refusal(err)
	var conflict *archive.Conflict
	var tooLarge *http.MaxBytesError
	var wait *archive.Unavailable
	switch {
	case errors.As(err, &wait):
		code, why = http.StatusServiceUnavailable, wait.Reason
		retryAfter(w, wait)
	case errors.As(err, &conflict):
		code = http.StatusConflict
	case refused:
		code = http.StatusUnprocessableEntity
	case errors.As(err, &tooLarge):
		code, why = http.StatusRequestEntityTooLarge, fmt.Sprintf("the instance is over the limit of %d GiB", tooLarge.Limit>>30)
	case noSpace(err):
		code, why = http.StatusInsufficientStorage, "the node's disk is full; free space there, then import again: what is stored is not sent twice"
	case errors.Is(err, cas.ErrUnavailable):
		code, why = http.StatusServiceUnavailable, "the node's store of originals cannot be reached now; import again when it is back: what is stored is not sent twice"
	default:
		if r.Context().Err() != nil {
			return err
		}
		s.Log.Error("an instance could not be stored", "error", err)
		why = "the node could not store it: " + err.Error()
	}
	receipt.Outcome, receipt.Reason, receipt.Bytes = Refused, why, 0
	return answer(w, code, receipt)
}

func (s *server) studies(w http.ResponseWriter, r *http.Request) error {
	iq, err := filter(r.URL.Query())
	if err != nil {
		return err
	}
	var out Found
	if err := s.turns.take(r.Context(), func(ctx context.Context) error {
		out, err = s.find(ctx, iq)
		return err
	}); err != nil {
		return err
	}
	return answer(w, http.StatusOK, out)
}

func (s *server) find(ctx context.Context, iq index.Query) (Found, error) {
	basis := s.Node.Basis() // before the search: it may find more, never less
	found, ans, err := s.Archive.Studies(ctx, iq)
	if err != nil {
		return Found{}, err
	}
	total, exact := len(ans.Studies), !ans.Incomplete
	if iq.After != "" || iq.Offset > 0 || ans.More { // not all that was found was seen
		all := iq
		all.After = ""
		if total, exact, err = s.Archive.Index.Count(ctx, all); err != nil {
			return Found{}, err
		}
	}
	out := Found{Studies: []Study{}, Total: total, Warnings: s.Node.Silence(), Basis: basis}
	if !exact || ans.Incomplete {
		out.Warnings = append(out.Warnings, "the search was given up before every record was looked at; narrow it")
	}
	if ans.More {
		out.Next = string(ans.Next)
	}
	if ans.Full {
		out.Warnings = append(out.Warnings, fullPage(ans)+"; go on after `next`")
	}
	if t := iq.Trust; t != "" && !slices.ContainsFunc(basis, func(b Basis) bool { return b.Trust == string(t) }) {
		out.Warnings = append(out.Warnings, noTrust(string(t), basis))
	}
	said := told(found)
	people, err := peopleOf(ctx, s.Archive, iq)
	if err != nil {
		return Found{}, err
	}
	other, err := otherIssuer(ctx, s.Archive.Index, iq)
	if err != nil {
		return Found{}, err
	}
	undated, err := dateless(ctx, s.Archive.Index, iq)
	if err != nil {
		return Found{}, err
	}
	out.Warnings = slices.Concat(out.Warnings, people.said, other, undated, noCodes(iq.Modalities, found), said)
	if out.Warnings == nil {
		out.Warnings = []string{}
	}
	for _, f := range found {
		st := studyJSON(f)
		st.Person = people.person[f.UID]
		out.Studies = append(out.Studies, st)
	}
	for _, f := range people.further {
		st := studyJSON(f)
		st.Person = people.person[f.UID]
		out.Further = append(out.Further, st)
	}
	for _, f := range people.possible {
		out.Possible = append(out.Possible, studyJSON(f))
	}
	return out, nil
}

func studyJSON(f archive.Found) Study {
	st := Study{
		Study: f.UID, NHS: f.NHS, Name: f.Name, BirthDate: dateOf(f.BirthDate), Sex: f.Sex, Date: dateOf(f.Date), Time: timeOf(f.Time),
		Accession: f.Accession, Description: f.Description, Modalities: f.Modalities, Series: f.Study.Series,
		Instances: f.Instances, Bytes: f.Bytes, Availability: availabilityOf(f), Settled: f.Settled, MixedPatient: f.Mixed, Damaged: f.Damaged, Lost: f.Lost, Coming: f.Coming, PartlyHere: f.Part,
		Received: f.Received, Trusts: []string{}, Copies: []string{}, Versions: versionsJSON(f.Versions), AtLeast: f.AtLeast,
	}
	if len(f.Patient) > 0 {
		st.PatientID, st.Issuer = f.Patient[0].ID, f.Patient[0].Issuer
	}
	if st.Modalities == nil {
		st.Modalities = []string{}
	}
	for _, t := range f.Trusts {
		st.Trusts = append(st.Trusts, string(t))
	}
	for _, t := range f.LostAt {
		st.LostCopies = append(st.LostCopies, string(t))
	}
	for _, t := range f.Copies {
		st.Copies = append(st.Copies, string(t))
	}
	return st
}

func (s *server) status(w http.ResponseWriter, r *http.Request) error {
	st, err := s.Node.Status(r.Context())
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, st)
}

func (s *server) pin(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Study  string `json:"study"`
		Reason string `json:"reason"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	if !dicom.UID(in.Study).Valid() || len(in.Reason) > maxReason {
		return fmt.Errorf("%w: send {\"study\": \"<Study Instance UID>\", \"reason\": \"<at most %d bytes>\"}", ErrWrongUse, maxReason)
	}
	p, err := s.Archive.Pin(in.Study, in.Reason)
	if err != nil {
		return err
	}
	here, err := s.Archive.Here(in.Study)
	if err != nil && !errors.Is(err, archive.ErrNotFound) {
		return err
	}
	return answer(w, http.StatusOK, Pin{Study: p.Study, Reason: p.Reason, Since: p.Since, Here: here})
}

func (s *server) pins(w http.ResponseWriter, _ *http.Request) error {
	all, err := s.Archive.Pins()
	if err != nil {
		return err
	}
	out := []Pin{}
	for _, p := range all {
		here, err := s.Archive.Here(p.Study)
		if err != nil && !errors.Is(err, archive.ErrNotFound) {
			return err
		}
		out = append(out, Pin{Study: p.Study, Reason: p.Reason, Since: p.Since, Here: here})
	}
	return answer(w, http.StatusOK, out)
}

func (s *server) unpin(w http.ResponseWriter, r *http.Request) error {
	was, err := s.Archive.Unpin(r.PathValue("study"))
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, Unpinned{Study: r.PathValue("study"), Was: was})
}

func (s *server) admit(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Card string `json:"card"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	if in.Card == "" {
		return fmt.Errorf("%w: send {\"card\": \"priormesh-card-1:…\"}", ErrWrongUse)
	}
	a, err := s.Node.Admit(r.Context(), in.Card)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, a)
}

func (s *server) expel(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Trust string `json:"trust"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	if in.Trust == "" {
		return fmt.Errorf("%w: send {\"trust\": \"RX1\"}", ErrWrongUse)
	}
	x, err := s.Node.Expel(r.Context(), in.Trust)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, x)
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) error {
	var in struct {
		Revocation string `json:"revocation"`
	}
	if err := body(r, &in); err != nil {
		return err
	}
	if in.Revocation == "" {
		return fmt.Errorf("%w: send {\"revocation\": \"priormesh-revocation-1:…\"}", ErrWrongUse)
	}
	v, err := s.Node.Revoke(r.Context(), in.Revocation)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, v)
}
