package interop

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// What a region does from end to end, measured at the outside: real
// processes, real sockets on loopback, real disks. The studies are synthetic
// and their pixels random, so nothing is gained by compression.

const (
	benchInstances = 64
	benchSize      = 512 << 10
	benchBytes     = benchInstances * benchSize
)

// BenchmarkImport: one study by `priormesh import`, acknowledged and on disk.
func BenchmarkImport(b *testing.B) {
	n := region(b, "RAA")[0]
	b.SetBytes(benchBytes)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := b.TempDir()
		synthesize(b, dir, 1000+uint64(i), benchInstances, benchSize)
		b.StartTimer()
		n.take(b, dir)
	}
}

// BenchmarkFetch: one study from another trust, from the wish to the last
// instance here.
func BenchmarkFetch(b *testing.B) {
	members := region(b, "RAA", "RBB")
	here, there := members[0], members[1]
	b.SetBytes(benchBytes)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := b.TempDir()
		files := synthesize(b, dir, 1000+uint64(i), benchInstances, benchSize)
		there.take(b, dir)
		here.knows(b, files[0].study, benchInstances)
		b.StartTimer()
		here.request(b, files[0].study)
		for here.operator(b, http.MethodGet, "/fetches/"+files[0].study, nil).State != "here" {
			time.Sleep(time.Millisecond)
		}
	}
}

// BenchmarkRead: one study by WADO-RS from the node that has it.
func BenchmarkRead(b *testing.B) {
	n := region(b, "RAA")[0]
	dir := b.TempDir()
	files := synthesize(b, dir, 1000, benchInstances, benchSize)
	n.take(b, dir)
	b.SetBytes(benchBytes)
	for b.Loop() {
		length(b, n.web+"/studies/"+files[0].study, benchBytes)
	}
}

// BenchmarkReadThrough: one study by WADO-RS from a node that has to bring it.
func BenchmarkReadThrough(b *testing.B) {
	members := region(b, "RAA", "RBB")
	here, there := members[0], members[1]
	b.SetBytes(benchBytes)
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		dir := b.TempDir()
		files := synthesize(b, dir, 1000+uint64(i), benchInstances, benchSize)
		there.take(b, dir)
		here.knows(b, files[0].study, benchInstances)
		b.StartTimer()
		length(b, here.web+"/studies/"+files[0].study, benchBytes)
	}
}

// BenchmarkFind: one patient's studies by QIDO-RS, among those of the bundled files.
func BenchmarkFind(b *testing.B) {
	n := region(b, "RAA")[0]
	n.take(b, bundled)
	for b.Loop() {
		if _, err := get(n.web + "/studies?PatientID=" + demoPatient); err != nil {
			b.Fatal(err)
		}
	}
}

// length reads an answer of at least so many bytes.
func length(b *testing.B, url string, least int64) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, url, nil)
	if err != nil {
		b.Fatal(err)
	}
	req.Header.Set("Accept", `multipart/related; type="application/dicom"; transfer-syntax=*`)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err != nil || n < least || resp.StatusCode != http.StatusOK {
		b.Fatal(fmt.Errorf("%s: %s, %d bytes: %v", url, resp.Status, n, err))
	}
}
