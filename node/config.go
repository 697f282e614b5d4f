package node

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/mesh"
	"github.com/priormesh/priormesh/node/archive"
)

// Config is config.toml: what an operator may change. Secrets are never in
// it; they are files of their own in the home folder.
type Config struct {
	Trust   index.TrustID `toml:"trust" comment:"ODS code of the trust that owns this node"`
	Name    string        `toml:"name" comment:"The trust's name as other trusts see it"`
	HTTP    string        `toml:"http" comment:"Where DICOMweb, the operator API and metrics are served. Keep it on loopback or behind a proxy that authenticates"`
	BaseURL string        `toml:"base_url" comment:"Where clients reach this node if a proxy stands before it, such as https://pacs.example.nhs.uk; addresses in answers begin with it. Empty: as the client wrote it"`
	DIMSE   string        `toml:"dimse" comment:"Reserved for the DIMSE service; empty until it is served"`
	Mesh    []string      `toml:"mesh" comment:"Where this node listens for other nodes: multiaddrs of TCP (/ip4/0.0.0.0/tcp/4001) and QUIC (/ip6/::/udp/4001/quic-v1), best all of one port number. Other nodes try first what is named first; TCP is the faster except where much is lost on a long way and the machine's TCP makes little of that. Empty: this node only dials out"`

	Identity     IdentityConfig     `toml:"identity"`
	Completeness CompletenessConfig `toml:"completeness"`
	Archive      ArchiveConfig      `toml:"archive"`
	Keys         KeysConfig         `toml:"keys"`
	S3           S3Config           `toml:"s3" comment:"Originals in a bucket of an S3 object store instead of on this node's disk"`
	Space        SpaceConfig        `toml:"space"`
	Verify       VerifyConfig       `toml:"verify"`
	Fetch        FetchConfig        `toml:"fetch"`
	Priors       PriorsConfig       `toml:"priors"`
	Sync         SyncConfig         `toml:"sync"`
	Network      NetworkConfig      `toml:"network"`
	Audit        AuditConfig        `toml:"audit"`
}

// IdentityConfig says whose numbers an unqualified PatientID is.
type IdentityConfig struct {
	DefaultIssuer string `toml:"default_issuer" comment:"Issuer of a Patient ID that names none. Empty: this trust is the issuer of its own numbers. Set the same value at trusts that share one numbering; NHS where they are NHS numbers"`
}

// CompletenessConfig bounds what may be called fresh.
type CompletenessConfig struct {
	HeardWithin Duration `toml:"heard_within" comment:"A trust that has been silent for longer is named in every answer"`
}

// ArchiveConfig is about studies that arrive here.
type ArchiveConfig struct {
	PublishAfter Duration `toml:"publish_after" comment:"Instances of a study are gathered for this long before other trusts are told"`
	SettleAfter  Duration `toml:"settle_after" comment:"A study without a new instance for this long is called settled"`
}

// SpaceConfig is about the disk.
type SpaceConfig struct {
	Copies     Size     `toml:"copies" comment:"What copies of other trusts' studies may take, such as 200GiB: beyond it the least recently used go. 0: as much as there is"`
	Reserve    Size     `toml:"reserve" comment:"Kept free on the disk, half of it by a file, so that the index lives when the disk is full. 0: nothing is kept free, and nothing watched"`
	SweepAfter Duration `toml:"sweep_after" comment:"What nothing refers to any more is deleted this long after its study was last written to"`
	KeepCopies Duration `toml:"keep_copies" comment:"A copy that was brought or used within this time stays, whatever the quota"`
	RoundEvery Duration `toml:"round_every" comment:"How often what cannot be read by any key is looked for"`
}

// VerifyConfig is about reading everything that is stored to see that it is whole.
type VerifyConfig struct {
	Rate  Size     `toml:"rate" comment:"Bytes a second that the background verification reads, such as 32MiB. 0: as fast as it goes"`
	Every Duration `toml:"every" comment:"A round begins this long after the one before ended. 0s: nothing is verified in the background"`
}

// FetchConfig is about bringing studies here, and giving them to others. It is
// in force as soon as it is written.
type FetchConfig struct {
	Workers         int      `toml:"workers" comment:"All of [fetch] is in force within seconds of being written, without a restart.\nStudies brought at the same time; one more if somebody waits for it"`
	PeerTransfers   int      `toml:"peer_transfers" comment:"Of them, from one other node, of what nobody waits for. One place is left for other nodes, whatever stands here. 0: all but that"`
	Rate            Size     `toml:"rate" comment:"Bytes a second taken from all other nodes together, whatever is brought, such as 10MiB. 0: no limit"`
	PeerRate        Size     `toml:"peer_rate" comment:"From each of them"`
	BackgroundRate  Size     `toml:"background_rate" comment:"Of what nobody waits for (priors, newer revisions), all together, within rate; not in the times of full_speed"`
	ServeRate       Size     `toml:"serve_rate" comment:"Bytes a second given to all other nodes together"`
	ServePeerRate   Size     `toml:"serve_peer_rate" comment:"To each of them"`
	ServeBackground Size     `toml:"serve_background_rate" comment:"Of what nobody there waits for; not in the times of full_speed"`
	FullSpeed       []Window `toml:"full_speed" comment:"When background_rate and serve_background_rate do not hold, by local time, such as [\"20:00-07:00\", \"Sat,Sun 00:00-24:00\"]"`
	ReadThrough     Duration `toml:"read_through" comment:"A reader of a remote study waits this long without a byte of progress, then gets 503"`
	RetryMin        Duration `toml:"retry_min" comment:"First wait after a failed fetch; it doubles up to retry_max"`
	RetryMax        Duration `toml:"retry_max"`
}

// rates are the bounds that hold at a time.
func (c FetchConfig) rates(now time.Time) (taking, serving mesh.Rates) {
	taking = mesh.Rates{All: int64(c.Rate), Peer: int64(c.PeerRate), Background: int64(c.BackgroundRate)}
	serving = mesh.Rates{All: int64(c.ServeRate), Peer: int64(c.ServePeerRate), Background: int64(c.ServeBackground)}
	if slices.ContainsFunc(c.FullSpeed, func(w Window) bool { return w.Contains(now.Local()) }) {
		taking.Background, serving.Background = 0, 0
	}
	return taking, serving
}

func (c FetchConfig) fetching() archive.Fetching {
	return archive.Fetching{Workers: c.Workers, PeerTransfers: c.PeerTransfers, ReadThrough: time.Duration(c.ReadThrough),
		RetryMin: time.Duration(c.RetryMin), RetryMax: time.Duration(c.RetryMax)}
}

// PriorsConfig is about what is brought before it is asked for.
type PriorsConfig struct {
	Window Duration `toml:"window" comment:"For this long after a study arrived, earlier studies that turn up elsewhere are still brought"`
}

// SyncConfig is about keeping the index in step with other trusts'.
type SyncConfig struct {
	Pull Size `toml:"pull" comment:"Bytes a second of facts that are asked of other nodes, such as 16MiB"`
	Send Size `toml:"send" comment:"Bytes a second of facts that are sent to other nodes, all of them together"`
}

// AuditConfig is about what is written down for information governance.
type AuditConfig struct {
	Keep Size `toml:"keep" comment:"What the audit log may take: beyond it its oldest files go. 0: all of it is kept"`
}

// minAudit is some hundred thousand events.
const minAudit = 256 << 20

// minSync keeps a region's index in step in its busiest hour; maxSync is more than any disk writes.
const (
	minSync = 64 << 10
	maxSync = 1 << 30
)

// Duration is a time.Duration written as "30s" in config.toml.
type Duration time.Duration

// UnmarshalText reads "30s", "5m", "168h".
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write it like \"30s\", \"5m\" or \"168h\"", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// DefaultConfig is a node that only this machine can reach by HTTP.
func DefaultConfig() Config {
	return Config{
		HTTP:         "127.0.0.1:8080",
		Mesh:         []string{"/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001", "/ip4/0.0.0.0/udp/4001/quic-v1", "/ip6/::/udp/4001/quic-v1"},
		Completeness: CompletenessConfig{HeardWithin: Duration(30 * time.Second)},
		Archive:      ArchiveConfig{PublishAfter: Duration(300 * time.Millisecond), SettleAfter: Duration(30 * time.Second)},
		Space:        SpaceConfig{Reserve: 512 << 20, SweepAfter: Duration(15 * time.Minute), KeepCopies: Duration(time.Hour), RoundEvery: Duration(24 * time.Hour)},
		Verify:       VerifyConfig{Rate: 32 << 20, Every: Duration(30 * 24 * time.Hour)},
		Fetch: FetchConfig{Workers: 3, PeerTransfers: 2, FullSpeed: []Window{}, ReadThrough: Duration(20 * time.Second),
			RetryMin: Duration(2 * time.Second), RetryMax: Duration(5 * time.Minute)},
		Priors:  PriorsConfig{Window: Duration(7 * 24 * time.Hour)},
		Sync:    SyncConfig{Pull: index.DefaultPull, Send: index.DefaultSend},
		Keys:    KeysConfig{KEK: "file:kek", KEKCommand: []string{}},
		Network: NetworkConfig{Announce: []string{}, UseRelays: true},
		S3:      S3Config{Region: "us-east-1", Credentials: "env"},
		Audit:   AuditConfig{Keep: 8 << 30},
	}
}

// Issuer is the issuer that an unqualified Patient ID gets here.
func (c Config) Issuer() string {
	if c.Identity.DefaultIssuer != "" {
		return c.Identity.DefaultIssuer
	}
	return string(c.Trust)
}

// Check says what an operator must mend.
func (c Config) Check() error {
	var errs []error
	if !c.Trust.Valid() {
		errs = append(errs, fmt.Errorf("trust: %q is not an ODS code: 1 to 12 capital letters and digits, such as RX1", c.Trust))
	}
	if _, port, err := net.SplitHostPort(c.HTTP); err != nil || !isPort(port) {
		errs = append(errs, fmt.Errorf("http: %q is not a host and port such as 127.0.0.1:8080", c.HTTP))
	}
	for _, a := range c.Mesh {
		if err := checkAddr(a, false); err != nil {
			errs = append(errs, fmt.Errorf("mesh: %q %w", a, err))
		}
	}
	if c.Network.Relay && len(c.Mesh) == 0 {
		errs = append(errs, errors.New("network.relay: a relay has to be reached by others: name in mesh where it listens"))
	}
	if err := c.Network.check(); err != nil {
		errs = append(errs, err)
	}
	if _, err := cas.ParseKEKSource(c.Keys.KEK, "/", c.Keys.KEKCommand); err != nil {
		errs = append(errs, fmt.Errorf("keys.kek: %w", err))
	}
	if err := c.S3.check(); err != nil {
		errs = append(errs, fmt.Errorf("s3: %w", err))
	}
	if c.Fetch.Workers < 1 || c.Fetch.Workers > 64 {
		errs = append(errs, fmt.Errorf("fetch.workers: %d is not between 1 and 64", c.Fetch.Workers))
	}
	if c.Fetch.PeerTransfers < 0 {
		errs = append(errs, errors.New("fetch.peer_transfers: must not be less than zero"))
	}
	for name, v := range map[string]Size{"fetch.rate": c.Fetch.Rate, "fetch.peer_rate": c.Fetch.PeerRate, "fetch.background_rate": c.Fetch.BackgroundRate,
		"fetch.serve_rate": c.Fetch.ServeRate, "fetch.serve_peer_rate": c.Fetch.ServePeerRate, "fetch.serve_background_rate": c.Fetch.ServeBackground} {
		if v != 0 && v < mesh.LeastRate {
			errs = append(errs, fmt.Errorf("%s: %s a second is so little that transfers break off; %s at least, or 0 for no limit", name, v, Size(mesh.LeastRate)))
		}
	}
	for name, d := range map[string]Duration{
		"completeness.heard_within": c.Completeness.HeardWithin, "archive.publish_after": c.Archive.PublishAfter,
		"archive.settle_after": c.Archive.SettleAfter, "fetch.read_through": c.Fetch.ReadThrough,
		"fetch.retry_min": c.Fetch.RetryMin, "fetch.retry_max": c.Fetch.RetryMax, "priors.window": c.Priors.Window,
		"space.sweep_after": c.Space.SweepAfter, "space.round_every": c.Space.RoundEvery,
	} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: must be longer than zero", name))
		}
	}
	if c.Verify.Every < 0 {
		errs = append(errs, errors.New("verify.every: must not be less than zero"))
	}
	if c.Space.KeepCopies < 0 {
		errs = append(errs, errors.New("space.keep_copies: must not be less than zero"))
	}
	for name, v := range map[string]Size{"sync.pull": c.Sync.Pull, "sync.send": c.Sync.Send} {
		if v < minSync || v > maxSync {
			errs = append(errs, fmt.Errorf("%s: %s is not between %s and %s a second", name, v, Size(minSync), Size(maxSync)))
		}
	}
	if c.Audit.Keep > 0 && c.Audit.Keep < minAudit {
		errs = append(errs, fmt.Errorf("audit.keep: %s is too little; %s at least, or 0 to keep all of it", c.Audit.Keep, Size(minAudit)))
	}
	if r := c.Space.Reserve; r > 0 && r < minReserve {
		errs = append(errs, fmt.Errorf("space.reserve: %s is too little to keep the index alive; %s at least, or 0 for none", r, Size(minReserve)))
	}
	return errors.Join(errs...)
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

func readConfig(home string) (Config, error) {
	path := filepath.Join(home, configFile)
	b, err := os.ReadFile(path)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			if _, err := os.Stat(filepath.Join(home, restoringFile)); err == nil {
				return Config{}, fmt.Errorf("%w: %s holds what a restore left that was broken off, or that goes on still. If none goes on, nothing in it is needed: remove it (rm -r), for it holds study keys, and run `priormesh restore` again", ErrNoHome, home)
			}
			return Config{}, fmt.Errorf("%w: there is no %s; make a home with `priormesh init --home %s --trust ODS`", ErrNoHome, path, home)
		}
		if errors.Is(err, syscall.ENOTDIR) {
			return Config{}, notFolder(home)
		}
		return Config{}, err
	}
	return parseConfig(path, b)
}

// parseConfig reads what is in the file at path. Its errors say in which line.
func parseConfig(path string, b []byte) (Config, error) {
	c := DefaultConfig()
	dec := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		var said struct {
			Keys struct {
				Command any `toml:"kek_command"`
			} `toml:"keys"`
		}
		if toml.Unmarshal(b, &said) == nil {
			if _, ok := said.Keys.Command.(string); ok {
				return Config{}, fmt.Errorf("%s: keys.kek_command is a list of words and not one text: write kek_command = [\"/usr/bin/kms\", \"decrypt\"]", path)
			}
		}
		var strict *toml.StrictMissingError
		var bad *toml.DecodeError
		switch {
		case errors.As(err, &strict):
			var unknown []string
			for _, e := range strict.Errors[:min(len(strict.Errors), 8)] {
				line, _ := e.Position()
				unknown = append(unknown, fmt.Sprintf("%s (line %d)", strings.Join(e.Key(), "."), line))
			}
			return Config{}, fmt.Errorf("%s has what this version does not know: %s; see that the name is right, and stands under the right [heading]", path, strings.Join(unknown, ", "))
		case errors.As(err, &bad):
			line, col := bad.Position()
			return Config{}, fmt.Errorf("%s, line %d, column %d: %w", path, line, col, err)
		}
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	var raw map[string]any
	if err := toml.Unmarshal(b, &raw); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := units(reflect.TypeFor[Config](), raw, ""); err != nil {
		return Config{}, inLines(path, b, err)
	}
	if err := c.Check(); err != nil {
		return Config{}, inLines(path, b, err)
	}
	return c, nil
}

// inLines says of errors that begin with a setting's name in which line of the
// file it is, if it is there.
func inLines(path string, b []byte, err error) error {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	slices.SortStableFunc(all, func(x, y error) int { return strings.Compare(x.Error(), y.Error()) })
	var out []error
	for _, e := range all {
		name, _, _ := strings.Cut(e.Error(), ":")
		if line := lineOf(b, name); line > 0 {
			e = fmt.Errorf("line %d: %w", line, e)
		}
		out = append(out, e)
	}
	return fmt.Errorf("%s: %w", path, errors.Join(out...))
}

// lineOf is the line in which a setting is given; 0 if it is in none.
func lineOf(b []byte, name string) int {
	section, n := "", 0
	for line := range strings.Lines(string(b)) {
		n++
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") && !strings.Contains(line, "=") {
			section = strings.Trim(line, "[] \t") + "."
			continue
		}
		key, _, ok := strings.Cut(line, "=")
		if ok && section+strings.TrimSpace(key) == name {
			return n
		}
	}
	return 0
}

// units refuses sizes and durations that are bare numbers: TOML's numbers do
// not go by UnmarshalText, and 5 may be meant as anything.
func units(t reflect.Type, said map[string]any, under string) error {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("toml")
		switch v := said[key].(type) {
		case map[string]any:
			if f.Type.Kind() == reflect.Struct {
				if err := units(f.Type, v, under+key+"."); err != nil {
					return err
				}
			}
		case int64, float64:
			if u, ok := reflect.New(f.Type).Interface().(encoding.TextUnmarshaler); ok {
				if err := u.UnmarshalText(fmt.Append(nil, v)); err != nil {
					return fmt.Errorf("%s%s: %w", under, key, err)
				}
			}
		}
	}
	return nil
}

func encodeConfig(c Config) ([]byte, error) { return toml.Marshal(c) }
