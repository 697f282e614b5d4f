package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/priormesh/priormesh/cas"
)

// barrel is a volume with so much room, of which files take some.
type barrel struct {
	size, others int64
	files        map[string]int64
	err          error
}

func (b *barrel) Free(string) (int64, error) {
	free := b.size - b.others
	for _, n := range b.files {
		free -= n
	}
	return max(free, 0), b.err
}

func (b *barrel) Total(string) (int64, error) { return b.size, nil }

func (b *barrel) Allocated(name string) (int64, error) { return b.files[name], nil }

func (b *barrel) Allocate(name string, size int64) error {
	if free, _ := b.Free(""); free < size {
		return &os.PathError{Op: "fallocate", Path: name, Err: syscall.ENOSPC}
	}
	b.files[name] = size
	return nil
}

func (b *barrel) Remove(name string) error {
	if _, ok := b.files[name]; !ok {
		return os.ErrNotExist
	}
	delete(b.files, name)
	return nil
}

func TestAReserveLargerThanTheDisk(t *testing.T) {
	v := &barrel{size: 1 << 30, files: map[string]int64{}}
	if _, err := openDisk(v, "home", "home/reserve", 2<<30, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "is 2 GiB, and the whole disk has 1 GiB") {
		t.Error(err)
	}
	if total, err := (machine{cas.OS()}).Total(t.TempDir()); err != nil || total < 1<<20 {
		t.Errorf("the disk of this machine has %d bytes, %v", total, err)
	}
}

// A number without a unit may be meant as anything.
func TestSettingsHaveUnits(t *testing.T) {
	for text, want := range map[string]string{
		"[space]\ncopies = 5":                       "space.copies: \"5\" has no unit",
		"[space]\nreserve = 5e9":                    "\"5e9\" has no unit",
		"[verify]\nrate = 100":                      "verify.rate: \"100\" has no unit",
		"[sync]\npull = 100000":                     "sync.pull: \"100000\" has no unit",
		"[sync]\npull = '1KiB'":                     "sync.pull: 1 KiB is not between 64 KiB and 1 GiB a second",
		"[sync]\nsend = '2GiB'":                     "sync.send: 2 GiB is not between 64 KiB and 1 GiB a second",
		"[verify]\nevery = 30":                      "verify.every: \"30\" is not a duration",
		"[keys]\nkek_command = '/bin/kms x'":        "keys.kek_command is a list of words",
		"[space]\ncopies = 0":                       "",
		"[space]\ncopies = '5GiB'":                  "",
		"[verify]\nevery = 0\n[fetch]\nworkers = 3": "",
	} {
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, configFile), []byte("trust = 'RX1'\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readConfig(home)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The levels as the disk fills and empties, in MiB: a reserve of 512, half of
// it ballast.
func TestLevelsOfTheDisk(t *testing.T) {
	const mib = 1 << 20
	v := &barrel{size: 4000 * mib, files: map[string]int64{}}
	var log bytes.Buffer
	d, err := openDisk(v, "home", "home/reserve", 512*mib, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	var levels []level
	d.changed = func(l level) { levels = append(levels, l) }
	for _, x := range []struct {
		others  int64 // MiB that others take
		want    level
		ballast bool
	}{
		{0, roomy, true},
		{3488, roomy, true},     // 256 free beside the ballast
		{3489, full, true},      // 255
		{3680, full, true},      // 64
		{3681, critical, false}, // 63: the ballast goes, 319 are free
		{3681, critical, false},
		{3936, critical, false}, // 64
		{3937, spent, false},    // 63
		{4000, spent, false},
		{3681, critical, false},
		{3617, critical, false}, // 383 are not enough to take 256 and leave 128
		{3616, full, true},      // 384 are
		{3488, roomy, true},
	} {
		v.others = x.others * mib
		d.look()
		d.look() // once more changes nothing
		if d.level != x.want || (v.files["home/reserve"] == 256*mib) != x.ballast {
			t.Fatalf("others take %d MiB: %v with a ballast of %d, want %v and ballast %v", x.others, d.level, v.files["home/reserve"], x.want, x.ballast)
		}
		for what, got := range map[string]struct {
			err  error
			want bool
		}{
			"to store":             {d.Store(), x.want > roomy},
			"to take what is said": {d.Note(false), x.want > full},
			"to say something":     {d.Note(true), x.want > critical},
		} {
			if (got.err != nil) != got.want || got.want && !errors.Is(got.err, cas.ErrDiskFull) {
				t.Errorf("others take %d MiB: %s: %v, want an error: %v", x.others, what, got.err, got.want)
			}
		}
		if (d.said() != "") != (x.want > roomy) {
			t.Errorf("others take %d MiB: said %q", x.others, d.said())
		}
	}
	if want := []level{full, critical, spent, critical, full, roomy}; fmt.Sprint(levels) != fmt.Sprint(want) {
		t.Errorf("told of %v, want %v", levels, want)
	}
	if n := strings.Count(log.String(), "\n"); n != len(levels) {
		t.Errorf("%d lines in the log for %d changes:\n%s", n, len(levels), log.String())
	}

	// A disk that cannot be asked is what it was; that is said once.
	log.Reset()
	v.err = errors.New("test")
	d.look()
	d.look()
	if d.level != roomy || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("%v\n%s", d.level, log.String())
	}
}

func TestADiskWithoutReserveIsNotWatched(t *testing.T) {
	v := &barrel{size: 10, others: 10, files: map[string]int64{"home/reserve": 5}}
	d, err := openDisk(v, "home", "home/reserve", 0, slog.New(slog.DiscardHandler))
	if err != nil || d.Store() != nil || d.Note(false) != nil || len(v.files) != 0 || d.keptFree() >= 0 {
		t.Errorf("%v %v %v", err, d, v.files)
	}
}

// The ballast is really given its bytes; holes in its place are no ballast.
func TestBallast(t *testing.T) {
	m := machine{cas.OS()}
	name := filepath.Join(t.TempDir(), "reserve")
	if n, err := m.Allocated(name); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	const size = 3<<20 + 5
	if err := m.Allocate(name, size); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Allocated(name); n != size || err != nil {
		t.Errorf("%d %v, want %d bytes of its own", n, err, size)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, size); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Allocated(name); n == size || n == 0 || err != nil {
		t.Errorf("a hole of %d bytes counts as %d: %v", size, n, err)
	}
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := zeros(f, size); err != nil {
		t.Fatal(err)
	}
	if n, err := m.Allocated(name); n != size || err != nil {
		t.Errorf("%d %v after zeros were written", n, err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "0": 0, "512MiB": 512 << 20, "200GiB": 200 << 30, "1.5 TB": 1.5e12, "64KiB": 64 << 10, "10KB": 10_000, "7B": 7, "2tib": 2 << 40, " 1 GB ": 1e9,
	} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || int64(s) != want {
			t.Errorf("%q: %d %v, want %d", text, s, err, want)
		}
		b, err := s.MarshalText()
		var again Size
		if err != nil || again.UnmarshalText(b) != nil || again != s {
			t.Errorf("%q is written %q, which reads %d", text, b, again)
		}
	}
	for _, text := range []string{"512", "12.5", "MiB", "-1GiB", "1 XB", "many", "NaNGiB", "InfB", "9999999TiB", "1GiBGiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
	for n, want := range map[Size]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 512 << 20: "512 MiB", 1<<40 + 1<<39: "1.5 TiB"} {
		if got := n.String(); got != want {
			t.Errorf("%d is shown as %q, want %q", n, got, want)
		}
	}
	c := DefaultConfig()
	c.Trust = "RX1"
	c.Space.Reserve = 100 << 20
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "space.reserve") {
		t.Errorf("a reserve of 100 MiB: %v", err)
	}
}
