package node

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/priormesh/priormesh/index"
)

// Names of what lies in a home folder; doc.go says what each is.
const (
	configFile   = "config.toml"
	nodeKeyFile  = "node.key"
	trustKeyFile = "trust.key"
	cardFile     = "card.txt"
	regionFile   = "region.txt"
	tokenFile    = "operator.token"
	runFile      = "run.json"
	lockFile     = "lock"
	auditedFile  = "audited"
)

// A home that is locked is tried again for this long before another process is
// said to run it: commands lock it for moments too.
const (
	lockFor   = 200 * time.Millisecond
	lockEvery = 10 * time.Millisecond
)

// Errors that commands turn into exit codes and advice.
var (
	ErrNoHome     = errors.New("not a home folder")
	ErrHomeExists = errors.New("the folder already holds a node")
	ErrInUse      = errors.New("another process runs this node")
	ErrNoRegion   = errors.New("this node is in no region yet")
	ErrNotRunning = errors.New("the node is not running")
)

// Home is a node's folder.
type Home struct {
	Dir    string
	Config Config
}

// InitOptions is what `priormesh init` asks for.
type InitOptions struct {
	Config Config
	Found  string // name of a region to found; empty to join one later
	// TrustKey is the file of the trust's key, if the trust has a node already:
	// this is another one. The key is not copied.
	TrustKey string
	Rand     io.Reader
	Now      func() time.Time
}

type homeFile struct {
	name string
	data []byte
}

// InitHome makes a node's folder: keys, card, config and, if asked, a new
// region with this trust as its only member. Nothing is made if the folder
// already holds a node.
func InitHome(dir string, o InitOptions) (*Home, error) {
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if err := o.Config.Check(); err != nil {
		return nil, err
	}
	// A home whose node runs is locked: that it exists is the better answer.
	if err := vacant(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		if errors.Is(err, syscall.ENOTDIR) {
			return nil, notFolder(dir)
		}
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil { // it may have been there
		return nil, err
	}
	unlock, err := lockHome(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := vacant(dir); err != nil { // another init may have come first
		return nil, err
	}
	_, nodeKey, err := ed25519.GenerateKey(o.Rand)
	if err != nil {
		return nil, err
	}
	trustKey, serial, err := o.trustKey()
	if err != nil {
		return nil, err
	}
	token := make([]byte, 32)
	if _, err := io.ReadFull(o.Rand, token); err != nil {
		return nil, err
	}
	conf, err := encodeConfig(o.Config)
	if err != nil {
		return nil, err
	}
	cert, err := index.NewNodeCert(trustKey, o.Config.Trust, nodeKey, serial)
	if err != nil {
		return nil, err
	}
	card := index.Card{
		Trust: o.Config.Trust, Name: o.Config.Name, TrustKey: trustKey.Public().(ed25519.PublicKey),
		NodeCert: cert, Addrs: announced(o.Config),
	}
	if err := card.Verify(); err != nil {
		return nil, err
	}
	files := []homeFile{
		{nodeKeyFile, encodeKey(nodeKey)},
		{tokenFile, []byte(hex.EncodeToString(token) + "\n")},
		{configFile, conf},
	}
	if o.TrustKey == "" {
		files = append(files, homeFile{trustKeyFile, encodeKey(trustKey)})
	}
	if o.Found != "" {
		vote, err := index.Found(trustKey, o.Found, card)
		if err != nil {
			return nil, err
		}
		inv := index.Invitation{Region: vote.Hash(), RegionName: o.Found, Votes: []index.Vote{vote}}
		files = append(files, homeFile{regionFile, []byte(inv.String() + "\n")})
	}
	files = append(files, homeFile{cardFile, []byte(card.String() + "\n")})
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, f.name), f.data); err != nil {
			return nil, err
		}
	}
	return OpenHome(dir)
}

// trustKey makes the trust's key, or reads it for a further node. serial is that
// of the node's certificate: where a trust has more nodes than count, the newer
// ones do.
func (o InitOptions) trustKey() (key ed25519.PrivateKey, serial uint64, err error) {
	if o.TrustKey == "" {
		_, key, err = ed25519.GenerateKey(o.Rand)
		return key, 1, err
	}
	if o.Found != "" {
		return nil, 0, errors.New("a further node of a trust joins the region that the trust is in; it cannot found one")
	}
	if key, err = readKey(o.TrustKey); err != nil {
		return nil, 0, fmt.Errorf("the trust's key: %w", err)
	}
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	return key, uint64(max(now().Unix(), 2)), nil
}

// vacant says whether a folder can become a home. card.txt is written last, so
// a home without one is an init that was cut off and holds nothing that anybody
// else has seen.
func vacant(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, cardFile)); err == nil {
		return fmt.Errorf("%w: %s; choose another --home", ErrHomeExists, dir)
	}
	return nil
}

func notFolder(dir string) error {
	return fmt.Errorf("%w: %s is a file, or lies under one; --home names a folder", ErrNoHome, dir)
}

// OpenHome reads the configuration of an existing home.
func OpenHome(dir string) (*Home, error) {
	c, err := readConfig(dir)
	if err != nil {
		return nil, err
	}
	return &Home{Dir: dir, Config: c}, nil
}

func (h *Home) path(name ...string) string { return filepath.Join(append([]string{h.Dir}, name...)...) }

// Card is this trust's card as text, to give to a member.
func (h *Home) Card() (string, error) {
	b, err := os.ReadFile(h.path(cardFile))
	return strings.TrimSpace(string(b)), err
}

// NodeKey is the node's identity on the mesh.
func (h *Home) NodeKey() (ed25519.PrivateKey, error) {
	k, err := readKey(h.path(nodeKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the node's key %s is not here, and the region knows this node by it alone: put the file back from a backup", h.path(nodeKeyFile))
	}
	return k, err
}

// TrustKey signs node certificates and votes; it may be kept offline.
func (h *Home) TrustKey() (ed25519.PrivateKey, error) {
	k, err := readKey(h.path(trustKeyFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the trust key %s is not here; bring it back from where it is kept: what a trust votes and revokes is signed with it", h.path(trustKeyFile))
	}
	return k, err
}

// Token admits to the operator API.
func (h *Home) Token() (string, error) {
	b, err := readSecret(h.path(tokenFile))
	return strings.TrimSpace(string(b)), err
}

// Region is the invitation (or founding) by which this node knows its region.
func (h *Home) Region() (index.Invitation, error) {
	b, err := os.ReadFile(h.path(regionFile))
	if errors.Is(err, os.ErrNotExist) {
		return index.Invitation{}, fmt.Errorf("%w: give the output of `priormesh card --home %s` to a member, and with the invitation you get run `priormesh join --home %s INVITATION`; or, to found a region, make a new home with `priormesh init --found`", ErrNoRegion, h.Dir, h.Dir)
	}
	if err != nil {
		return index.Invitation{}, err
	}
	return index.ParseInvitation(strings.TrimSpace(string(b)))
}

// Join keeps an invitation after checking that it admits this trust. A newer
// invitation to the same region may replace an older one.
func (h *Home) Join(invitation string) (index.Roster, error) {
	unlock, err := lockHome(h.Dir)
	if err != nil {
		return index.Roster{}, err
	}
	defer unlock()
	inv, err := index.ParseInvitation(strings.TrimSpace(invitation))
	if err != nil {
		return index.Roster{}, err
	}
	text, err := h.Card()
	if err != nil {
		return index.Roster{}, err
	}
	card, err := index.ParseCard(text)
	if err != nil {
		return index.Roster{}, err
	}
	roster, err := index.VerifyInvitation(inv, card)
	if err != nil {
		return index.Roster{}, h.unfit(inv, card, err)
	}
	if old, err := h.Region(); err == nil {
		if old.Region != roster.Region {
			return index.Roster{}, fmt.Errorf("this node already belongs to the region %q; a node is of one region only: make a new home for another", old.RegionName)
		}
	} else if !errors.Is(err, ErrNoRegion) {
		return index.Roster{}, err
	}
	return roster, writeFile(h.path(regionFile), []byte(strings.TrimSpace(invitation)+"\n"))
}

// unfit is err in better words where an invitation is simply another trust's.
func (h *Home) unfit(inv index.Invitation, card index.Card, err error) error {
	roster := index.EvalRoster(inv.Region, inv.Votes, nil)
	have, _, _ := roster.Standing(card.Hash())
	if _, member := roster.Member(card.Trust); member || have > 0 || len(roster.Members) == 0 {
		return err
	}
	var members []string
	for _, m := range roster.Members {
		members = append(members, string(m.Trust))
	}
	return &index.InvitationError{Trust: card.Trust, Why: fmt.Sprintf("it admits %s and was made for another trust: give a member this trust's card (`priormesh card --home %s` prints it) and ask for the invitation for it", strings.Join(members, ", "), h.Dir)}
}

// Running is how commands find the node's process.
type Running struct {
	PID  int    `json:"pid"`
	HTTP string `json:"http"`
}

// Audit is the folder of the audit log, and the file that says how far it had come.
func (h *Home) Audit() (dir, tail string) { return h.path("audit"), h.path(auditedFile) }

// Running reads what the node's process wrote about itself. What a process that
// was killed left behind does not count.
func (h *Home) Running() (Running, error) {
	var r Running
	locked := h.Locked() // asked first: a node that ends takes the file away before it lets go
	b, err := os.ReadFile(h.path(runFile))
	if errors.Is(err, os.ErrNotExist) || err == nil && !locked {
		return r, fmt.Errorf("%w: start it with `priormesh run --home %s`", ErrNotRunning, h.Dir)
	}
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", h.path(runFile), err)
	}
	return r, nil
}

// Locked reports whether a process has the home: a node that runs, starts or
// ends, or for moments a command.
func (h *Home) Locked() bool {
	f, err := os.Open(h.path(lockFile))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// lockHome keeps two processes from using one home. The lock is the kernel's,
// so it ends with the process however that ends.
func lockHome(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s; make one with `priormesh init`", ErrNoHome, dir)
		}
		return nil, err
	}
	for end := time.Now().Add(lockFor); ; time.Sleep(lockEvery) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("%s cannot be locked: %w", f.Name(), err)
		case time.Now().After(end):
			f.Close()
			return nil, fmt.Errorf("%w: %s is locked; stop that process first", ErrInUse, dir)
		}
	}
}

func encodeKey(k ed25519.PrivateKey) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err) // an Ed25519 key always marshals
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// readSecret refuses what others on this machine could have read.
func readSecret(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o): find out who did, and `chmod 600` it", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

func readKey(path string) (ed25519.PrivateKey, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s: not a PEM private key", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ed, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: not an Ed25519 key", path)
	}
	return ed, nil
}

// writeFile replaces a file whole or not at all, readable by its owner only.
func writeFile(path string, data []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
