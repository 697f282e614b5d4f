package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/node/api"
)

// sayWaiting is how long a start waits for the bucket before it says so.
const sayWaiting = 500 * time.Millisecond

// S3Config says in which bucket originals are kept, if in any.
type S3Config struct {
	Endpoint    string `toml:"endpoint" comment:"Address of the object store, such as https://s3.example.nhs.uk"`
	Region      string `toml:"region" comment:"Its region; us-east-1 if the object store knows none"`
	Bucket      string `toml:"bucket" comment:"If set, what this trust receives lies in this bucket, shared by all nodes of the trust, and not in blocks/. It cannot be set once studies are stored"`
	Prefix      string `toml:"prefix" comment:"Begins all names in the bucket; one for each trust, where trusts share a bucket"`
	Credentials string `toml:"credentials" comment:"Where the access key comes from: env (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), credential:NAME (systemd) or file:PATH (mode 0600); of the two latter the first line is the access key and the second the secret, or JSON with accessKey and secretKey"`
	CAFile      string `toml:"ca_file" comment:"PEM certificates that the endpoint's is signed by, if this machine does not know them"`
}

func (c S3Config) check() error {
	if c.Bucket == "" {
		return nil
	}
	if err := cas.CheckS3(c.Endpoint, c.Bucket, c.Prefix); err != nil {
		return err
	}
	kind, name, _ := strings.Cut(c.Credentials, ":")
	if c.Credentials != "env" && (kind != "credential" && kind != "file" || name == "") {
		return fmt.Errorf(`credentials: %q is not "env", "credential:NAME" or "file:PATH"`, c.Credentials)
	}
	return nil
}

// accessKey reads what the object store knows this node by.
func (h *Home) accessKey() (access, secret, session string, err error) {
	kind, name, _ := strings.Cut(h.Config.S3.Credentials, ":")
	var b []byte
	switch kind {
	case "credential":
		b, err = cas.ReadCredential(name)
	case "file":
		if !filepath.IsAbs(name) {
			name = h.path(name)
		}
		b, err = cas.ReadSecret(name)
	default:
		access, secret, session = os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SESSION_TOKEN")
		if access == "" || secret == "" {
			err = errors.New("AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY is not set")
		}
	}
	if err == nil && b != nil {
		access, secret, err = parseAccessKey(b)
	}
	if err != nil {
		return "", "", "", fmt.Errorf("s3.credentials in %s (%s): %w", configFile, h.Config.S3.Credentials, err)
	}
	return access, secret, session, nil
}

// parseAccessKey reads two lines, or JSON. No error repeats any of it.
func parseAccessKey(b []byte) (access, secret string, err error) {
	b = bytes.TrimSpace(b)
	if bytes.HasPrefix(b, []byte("{")) {
		var v struct {
			AccessKey string `json:"accessKey"`
			SecretKey string `json:"secretKey"`
		}
		if json.Unmarshal(b, &v) == nil {
			access, secret = v.AccessKey, v.SecretKey
		}
	} else {
		first, second, _ := strings.Cut(string(b), "\n")
		access, secret = strings.TrimSpace(first), strings.TrimSpace(second)
	}
	if access == "" || secret == "" || strings.ContainsAny(access+secret, "\r\n") {
		return "", "", errors.New("it holds neither two lines, the access key and the secret, nor JSON with accessKey and secretKey")
	}
	return access, secret, nil
}

// bucket opens the store of this trust's originals; nil if they are on disk.
func (h *Home) bucket(ctx context.Context, existing bool, o Options) (*cas.S3, error) {
	c := h.Config.S3
	if c.Bucket == "" {
		return nil, nil
	}
	access, secret, session, err := h.accessKey()
	if err != nil {
		return nil, err
	}
	var roots *x509.CertPool
	if c.CAFile != "" {
		path := c.CAFile
		if !filepath.IsAbs(path) {
			path = h.path(path)
		}
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("s3.ca_file in %s: %w", configFile, err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3.ca_file in %s: %s holds no PEM certificate", configFile, path)
		}
	}
	waiting := time.AfterFunc(sayWaiting, func() {
		o.Log.Warn("waiting for the bucket, which does not answer", "bucket", c.place(), "endpoint", c.Endpoint)
	})
	defer waiting.Stop()
	s, err := cas.OpenS3(ctx, cas.S3Options{
		Endpoint: c.Endpoint, Region: c.Region, Bucket: c.Bucket, Prefix: c.Prefix,
		AccessKey: access, SecretKey: secret, SessionToken: session,
		Existing: existing, Roots: roots, Rand: o.Rand, Log: o.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("the bucket of [s3] in %s: %w", configFile, err)
	}
	return s, nil
}

// bucketStatus is what was last seen of the bucket; nil if originals are on disk.
type bucketStatus api.Bucket

func (n *Node) bucketStatus() *bucketStatus {
	if n.bucket == nil {
		return nil
	}
	c := n.home.Config.S3
	since, tried := n.bucket.Away()
	return &bucketStatus{Name: strings.TrimPrefix(c.place(), "bucket "), Endpoint: c.Endpoint, Reachable: since.IsZero(), AwaySince: since.UTC(), Tried: tried.UTC()}
}

// said says for people what does not go while the bucket is away.
func (b *bucketStatus) said() string {
	if b == nil || b.Reachable {
		return ""
	}
	return fmt.Sprintf("the bucket of originals has not been reached since %s (last tried at %s): nothing is stored, and what was received here is not given, until it is back",
		b.AwaySince.Format(time.RFC3339), b.Tried.Format(time.RFC3339))
}

// originalsFile says where what was received here is kept. config.toml alone
// must not be able to have it looked for elsewhere.
const originalsFile = "originals"

func (c S3Config) place() string {
	if c.Bucket == "" {
		return "disk"
	}
	return strings.TrimSuffix("bucket "+c.Bucket+"/"+strings.Trim(c.Prefix, "/"), "/")
}

// checkPlace keeps originals from being looked for where they are not.
func (h *Home) checkPlace(own bool) error {
	b, err := os.ReadFile(h.path(originalsFile))
	said := strings.TrimSpace(string(b))
	if errors.Is(err, fs.ErrNotExist) {
		said, err = "disk", nil
	}
	if err != nil {
		return err
	}
	place := h.Config.S3.place()
	if own && said != place {
		return fmt.Errorf("%w: the studies that were received here lie in %q and not in %q, as [s3] in %s says: put the setting back. Studies do not move from one to the other; to begin anew with a bucket make another home with `priormesh init`",
			ErrStoreLost, said, place, configFile)
	}
	if said == place && len(b) > 0 {
		return nil
	}
	return writeFile(h.path(originalsFile), []byte(place+"\n"))
}

// stores are what a node keeps studies and their keys in.
type stores struct {
	originals *cas.S3 // nil: on disk, as copies are
	rings     []*cas.Keyring
}

func (s stores) shared() bool { return s.originals != nil }

// keys are of what this trust received, and of copies.
func (s stores) keys() (own, copies *cas.Keyring) { return s.rings[len(s.rings)-1], s.rings[0] }

func (h *Home) openStores(ctx context.Context, existing bool, o Options) (s stores, err error) {
	source, err := h.kekSource()
	if err != nil {
		return s, err
	}
	cabinets, bucket, err := h.cabinets(ctx, existing, o)
	if err != nil {
		return s, err
	}
	s.originals = bucket
	if bucket != nil && existing {
		there, err := cas.KeyringExists(ctx, bucket.Cabinet())
		if err == nil && !there {
			err = lost("study keys", bucket.String())
		}
		if err != nil {
			return s, errors.Join(err, bucket.Close())
		}
	}
	if s.rings, err = (keyrings{fs: cas.OS(), source: source, cabinets: cabinets, rand: o.Rand}).open(ctx); err != nil && bucket != nil {
		err = errors.Join(err, bucket.Close())
	}
	return s, err
}

// cabinets are where this node's keyrings are: the one of copies first, then,
// if originals are in a bucket, the one of them.
func (h *Home) cabinets(ctx context.Context, existing bool, o Options) ([]cas.Cabinet, *cas.S3, error) {
	local, err := cas.OpenFolder(cas.OS(), h.path("keys"))
	if err != nil {
		return nil, nil, fmt.Errorf("the study keys in %s cannot be opened: %w", h.path("keys"), err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	bucket, err := h.bucket(ctx, existing, o)
	if err != nil || bucket == nil {
		return []cas.Cabinet{local}, nil, err
	}
	return []cas.Cabinet{local, bucket.Cabinet()}, bucket, nil
}
