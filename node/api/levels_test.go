package api

import (
	"testing"

	"github.com/priormesh/priormesh/dicom"
	"github.com/priormesh/priormesh/dicom/dicomweb"
	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// A row has the study level of whose version it is; what is nobody's is left out and counted, and what was not asked for is left out.
func TestWhoseTheRowsAre(t *testing.T) {
	one, other, third := index.NodeID{1}, index.NodeID{2}, index.NodeID{3}
	said := func(name string) index.Study { return index.Study{UID: "1.2", Name: name} }
	f := archive.Found{Study: said("Lovelace^Ada"), Versions: []archive.Version{
		{Node: one, Study: said("Lovelace^Ada"), Matches: true}, {Node: other, Study: said("Hopper^Grace"), Stranger: true, Matches: true}, {Node: third, Study: said("Turing^Alan"), Stranger: true},
	}}
	for _, c := range []struct {
		of   index.NodeID
		name string
		left int
	}{{one, "Lovelace^Ada", 0}, {other, "Hopper^Grace", 0}, {third, "", 0}, {index.NodeID{9}, "", 1}} {
		rows, left := levelDatasets(dicomweb.Instances, f, []archive.Listed{{Node: c.of, Study: "1.2", Series: "1.2.1", Instance: "1.2.1.1"}})
		got := ""
		if len(rows) == 1 {
			got = rows[0].String(dicom.TagPatientName)
			if u := rows[0].String(dicom.TagSOPInstanceUID); u != "1.2.1.1" {
				t.Errorf("an instance of %x is %q", c.of[:1], u)
			}
		}
		if got != c.name || left != c.left || len(rows) > 1 {
			t.Errorf("of %x: %d rows of %q, %d left; want %q, %d", c.of[:1], len(rows), got, left, c.name, c.left)
		}
	}
}
