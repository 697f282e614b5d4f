package api

import (
	"fmt"
	"strings"

	"github.com/priormesh/priormesh/index"
	"github.com/priormesh/priormesh/node/archive"
)

// maxPeople is how many patients one answer tells apart.
const maxPeople = 8

// apart tells apart, from 1, the patients of studies that were asked for by a
// number of a patient: such a number may stand on two people's studies, by
// mistake or because its issuer was not asked for. person is nil, and nothing
// is said, where all are one patient's as far as anybody says.
func apart(x *index.Index, q index.Query, found []archive.Found) (person []int, said []string, err error) {
	if q.NHS == "" && (q.PatientID == "" || strings.ContainsAny(q.PatientID, "*?")) || len(found) < 2 {
		return nil, nil, nil
	}
	person = make([]int, len(found))
	at := make(map[string]int, len(found))
	for i, f := range found {
		at[f.UID] = i
	}
	people, further := 0, false
	for i, f := range found {
		if person[i] > 0 {
			continue
		}
		if people == maxPeople {
			further = true
			break
		}
		people++
		person[i] = people
		p, err := x.Patient(f.UID)
		if err != nil {
			return nil, nil, err
		}
		for _, uid := range p.Certain {
			if j, ok := at[uid]; ok && person[j] == 0 {
				person[j] = people
			}
		}
	}
	if people == 1 {
		return nil, nil, nil
	}
	count := fmt.Sprint(people)
	if further {
		count = "more than " + count
	}
	return person, []string{fmt.Sprintf("what was found by this number is not known to be one patient's: there are %s whose names or birth dates do not agree, or of whom a study names several; compare them, and see that the wrong ones get a number of their own", count)}, nil
}

// otherIssuer explains an answer that is empty because the digits of an NHS
// number stand under an issuer that does not give NHS numbers.
func otherIssuer(x *index.Index, q index.Query, total int) ([]string, error) {
	if q.NHS == "" || total > 0 {
		return nil, nil
	}
	n, _, err := x.Count(index.Query{PatientID: q.NHS})
	if err != nil || n == 0 {
		return nil, err
	}
	return []string{fmt.Sprintf("%s these digits as a Patient ID of another issuer than the NHS (find them with --patient): they are no NHS number before the images or the trust's identity.default_issuer say so", counted(n, "study has", "studies have"))}, nil
}
