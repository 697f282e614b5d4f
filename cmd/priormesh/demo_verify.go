package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/priormesh/priormesh/dicom"
)

// What the demo does as a modality and as a viewer would: it speaks DICOMweb
// and nothing else.

// stored is what a STOW-RS answer says of one instance.
type stored struct {
	accepted bool
	reason   string
}

// failureReasons are those of PS3.18 I.2.2 that a node gives.
var failureReasons = map[int]string{
	0x0110: "the node could not process it",
	0x0111: "conflict: its SOP Instance UID is already stored with different bytes, and the first is kept",
	0x0124: "not authorised",
	0xA700: "the node is out of space",
	0xA900: "it belongs to another study",
	0xC000: "the node cannot understand it",
}

// stow sends instances in one STOW-RS request. All must have SOP Instance UIDs
// of their own; the answer is by these.
func stow(ctx context.Context, client *http.Client, web, dir string, files []demoFile) (map[dicom.UID]stored, error) {
	boundary := rand.Text()
	body, w := io.Pipe()
	go func() {
		parts := multipart.NewWriter(w)
		err := parts.SetBoundary(boundary)
		for _, f := range files {
			if err == nil {
				err = addPart(parts, filepath.Join(dir, filepath.FromSlash(f.path)))
			}
		}
		if err == nil {
			err = parts.Close()
		}
		w.CloseWithError(err)
	}()
	defer body.Close() // ends the goroutine if nobody reads any more
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, web+"/dicom-web/studies", body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", `multipart/related; type="application/dicom"; boundary=`+boundary)
	req.Header.Set("Accept", "application/dicom+json")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusAccepted, http.StatusConflict:
	default:
		return nil, fmt.Errorf("STOW-RS answered %s: %.500s", resp.Status, answer)
	}
	return stowAnswer(answer)
}

func addPart(parts *multipart.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	p, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/dicom"}})
	if err != nil {
		return err
	}
	_, err = io.Copy(p, f)
	return err
}

// stowAnswer reads a Store Instances Response Module (PS3.18 I) in DICOM JSON.
func stowAnswer(b []byte) (map[dicom.UID]stored, error) {
	type element struct{ Value []json.RawMessage }
	var module map[string]element
	if err := json.Unmarshal(b, &module); err != nil {
		return nil, fmt.Errorf("the answer to STOW-RS is no DICOM JSON: %w", err)
	}
	out := map[dicom.UID]stored{}
	for tag, accepted := range map[string]bool{"00081199": true, "00081198": false} {
		for _, raw := range module[tag].Value {
			var item map[string]element
			if err := json.Unmarshal(raw, &item); err != nil {
				return nil, fmt.Errorf("the answer to STOW-RS: %s: %w", tag, err)
			}
			var uid string
			if v := item["00081155"].Value; len(v) != 1 || json.Unmarshal(v[0], &uid) != nil {
				continue // a failed instance whose UID could not be read
			}
			s := stored{accepted: accepted}
			if !accepted {
				s.reason = refusalText(item["00081197"].Value)
			}
			out[dicom.UID(uid)] = s
		}
	}
	return out, nil
}

// refusalText is what a Failure Reason means.
func refusalText(value []json.RawMessage) string {
	var code int
	if len(value) != 1 || json.Unmarshal(value[0], &code) != nil {
		return "refused without a reason"
	}
	text, ok := failureReasons[code]
	if !ok {
		text = "refused"
	}
	return fmt.Sprintf("%s (failure reason %04X)", text, code)
}

// wado retrieves one instance as it was received and holds it against a file.
func wado(ctx context.Context, client *http.Client, web string, u dicom.UIDs, path, sum string) (identical bool, err error) {
	where := fmt.Sprintf("%s/dicom-web/studies/%s/series/%s/instances/%s", web, u.Study, u.Series, u.Instance)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Accept", `multipart/related; type="application/dicom"; transfer-syntax=*`)
	resp, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return false, fmt.Errorf("WADO-RS answered %s: %s", resp.Status, said)
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		return false, fmt.Errorf("WADO-RS answered with %q, not multipart", resp.Header.Get("Content-Type"))
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	part, err := parts.NextRawPart()
	if err != nil {
		return false, err
	}
	file, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer file.Close()
	h := sha256.New()
	same, err := sameBytes(io.TeeReader(part, h), file)
	if err != nil {
		return false, err
	}
	if _, err := parts.NextRawPart(); !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("WADO-RS answered with more than the one instance asked for: %v", err)
	}
	return same && hex.EncodeToString(h.Sum(nil)) == sum, nil
}

// sameBytes reads a to its end and reports whether b holds the same bytes.
func sameBytes(a, b io.Reader) (bool, error) {
	same := true
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(a, x)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		if same {
			m, berr := io.ReadFull(b, y[:n])
			if berr != nil && berr != io.EOF && berr != io.ErrUnexpectedEOF {
				return false, berr
			}
			same = bytes.Equal(x[:n], y[:m])
		}
		if err != nil {
			break
		}
	}
	if m, err := b.Read(y[:1]); same && (m != 0 || err != io.EOF) {
		return false, nil
	}
	return same, nil
}

// withoutRepeats cuts instances into runs in which no SOP Instance UID comes
// twice, so that an answer by UID means one file.
func withoutRepeats(files []demoFile, order []int) [][]int {
	var runs [][]int
	seen := map[dicom.UID]bool{}
	for _, f := range order {
		uid := files[f].uids.Instance
		if len(runs) == 0 || seen[uid] {
			runs = append(runs, nil)
			clear(seen)
		}
		seen[uid] = true
		runs[len(runs)-1] = append(runs[len(runs)-1], f)
	}
	return runs
}

// wrongly are studies that a trust holds or is bringing and should not.
func wrongly(holds []string, should map[string]bool) []string {
	var out []string
	for _, s := range holds {
		if name := dicom.UID(s).Short(); !should[s] && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
