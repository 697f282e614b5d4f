package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/priormesh/priormesh/dicom/dicomtest"
	"github.com/priormesh/priormesh/node"
	"github.com/priormesh/priormesh/node/archive"
)

// onDisk is what a folder takes of the disk.
func onDisk(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			n += st.Blocks * 512
		} else {
			n += info.Size()
		}
		return nil
	})
	return n, err
}

// hashing is a store that only reads and hashes.
type hashing struct{}

func (hashing) put(_ context.Context, files []string) error {
	var buf bytes.Buffer
	for _, f := range files {
		if err := readAll(f, &buf); err != nil {
			return err
		}
		sha256.Sum256(buf.Bytes())
	}
	return nil
}

func (hashing) close() error { return nil }

// space prints what lies on disk for what was taken in, and how fast what is
// there already is taken in again.
func (b *bench) space(ctx context.Context) error {
	const (
		count   = 8
		writers = 4
	)
	plain := b.studies[:count]
	make := func(name string, of func(s, i int) []byte) ([]study, error) {
		return writeStudies(filepath.Join(b.dir, name), 1, count, inStudy, of)
	}
	packed, err := make("encapsulated", b.model.encapsulated)
	if err != nil {
		return err
	}
	renamed, err := make("renamed", b.model.renamed)
	if err != nil {
		return err
	}
	syscall.Sync()

	fmt.Printf("\nOn disk for what was taken in, a closed node's home folder, %d writers\n", writers)
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\ttaken in, MB\tblocks grew by, MB\tof it\tall of home grew by\tof it\tMB/s")
	into := func(home *node.Home, what string, from []study) error {
		blocks, all, err := sizes(home)
		if err != nil {
			return err
		}
		s, err := startInside(ctx, home)
		if err != nil {
			return err
		}
		r, err := fill(ctx, s, from, perPost, writers, time.Hour)
		if err = errors.Join(err, s.close()); err != nil {
			return err
		}
		blocks2, all2, err := sizes(home)
		if err != nil {
			return err
		}
		grew, grewAll := float64(blocks2-blocks), float64(all2-all)
		_, err = fmt.Fprintf(t, "%s\t%.1f\t%.2f\t%.1f %%\t%.2f\t%.1f %%\t%.0f\n", what, float64(r.bytes)/mega,
			grew/mega, 100*grew/float64(r.bytes), grewAll/mega, 100*grewAll/float64(r.bytes), r.mb())
		return err
	}
	var homes []*node.Home
	for _, name := range []string{"first", "second"} {
		home, _, err := newHome(filepath.Join(b.dir, name))
		if err != nil {
			return err
		}
		// What an empty node has on disk is not the studies'.
		s, err := startInside(ctx, home)
		if err == nil {
			err = s.close()
		}
		if err != nil {
			return err
		}
		homes = append(homes, home)
	}
	for _, c := range []struct {
		home *node.Home
		what string
		from []study
	}{
		{homes[0], "uncompressed CT", plain},
		{homes[1], "already compressed (random fragments)", packed},
		{homes[0], "the CT again, whole", plain},
		{homes[0], "the CT again, other names and SOP Instance UIDs", renamed},
		{homes[1], "the compressed again, whole", packed},
	} {
		if err := into(c.home, c.what, c.from); err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
	}
	r, err := fill(ctx, hashing{}, plain, perPost, writers, time.Hour)
	if err != nil {
		return err
	}
	fmt.Fprintf(t, "(reading and SHA-256 alone)\t%.1f\t\t\t\t\t%.0f\n", float64(r.bytes)/mega, r.mb())
	return t.Flush()
}

func sizes(home *node.Home) (blocks, all int64, err error) {
	if blocks, err = onDisk(filepath.Join(home.Dir, "blocks")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, 0, err
	}
	all, err = onDisk(home.Dir)
	return blocks, all, err
}

// idle prints what servers that have nothing to do hold in memory.
func (b *bench) idle(ctx context.Context) error {
	const (
		count   = 10000
		perOne  = 100
		writers = 16
		settled = 5 * time.Second
	)
	dir := filepath.Join(b.dir, "idle")
	home, url, err := newHome(dir)
	if err != nil {
		return err
	}
	n, err := startInside(ctx, home)
	if err != nil {
		return err
	}
	var next atomic.Int64
	began := time.Now()
	errs := make(chan error, writers)
	for range writers {
		go func() {
			var failed error
			for failed == nil {
				s := int(next.Add(1)) - 1
				if s >= count/perOne {
					break
				}
				for i := range perOne {
					one := dicomtest.Instance{Study: fmt.Sprintf("2.25.1%06d", s), Series: fmt.Sprintf("2.25.2%06d", s), SOP: fmt.Sprintf("2.25.3%06d%06d", s, i),
						PatientID: fmt.Sprintf("B%07d", s), Name: patient(s), Modality: "CT", Number: i + 1, Frames: 1}.Bytes()
					if _, failed = n.Archive().Ingest(ctx, bytes.NewReader(one), archive.IngestOptions{}); failed != nil {
						break
					}
				}
			}
			errs <- failed
		}()
	}
	for range writers {
		err = errors.Join(err, <-errs)
	}
	took := time.Since(began)
	if err = errors.Join(err, n.close()); err != nil {
		return err
	}
	fmt.Printf("\nMemory when idle, MiB (resident; %d instances of 5 kB were taken in at %.0f a second)\n", count, count/took.Seconds())
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "what\tresident\tof it its own (not files)\tpeak since its start")
	for _, c := range []struct {
		what string
		open func() (*process, error)
	}{
		{fmt.Sprintf("Priormesh, restarted with %d instances", count), func() (*process, error) {
			s, err := startSTOW(ctx, home, url)
			if err != nil {
				return nil, err
			}
			return s.process, nil
		}},
		{"Orthanc, empty", func() (*process, error) {
			p, _, _, err := startOrthanc(ctx, mkdir(b.dir, "orthanc"))
			return p, err
		}},
		{"Kubo, empty, offline", func() (*process, error) {
			s, err := openKubo(ctx, mkdir(b.dir, "kubo"))
			if err != nil {
				return nil, err
			}
			return s.(*kubo).process, nil
		}},
	} {
		p, err := c.open()
		if errors.Is(err, errAbsent) {
			fmt.Fprintf(t, "%s\tnot installed\n", c.what)
			continue
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(settled):
		}
		fmt.Fprint(t, c.what)
		for _, field := range []string{"VmRSS", "RssAnon", "VmHWM"} {
			v, rerr := p.resident(field)
			err = errors.Join(err, rerr)
			fmt.Fprintf(t, "\t%.0f", float64(v)/(1<<20))
		}
		fmt.Fprintln(t)
		if err = errors.Join(err, p.stop()); err != nil {
			return err
		}
	}
	return t.Flush()
}

// mkdir is a new folder; that it cannot be made is seen by who uses it.
func mkdir(parent, name string) string {
	dir := filepath.Join(parent, name)
	_ = os.MkdirAll(dir, 0o700)
	return dir
}
