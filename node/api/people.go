package api

import (
	"fmt"
	"strings"

	"github.com/priormesh/priormesh/index"
)

// Limits of what is looked at to tell apart the patients under one number.
const (
	maxUnder  = 256 // studies, the newest
	maxPeople = 8   // patients
)

// apart tells apart, from 1, the patients of all studies that bear the number
// of a patient that is asked for, whichever of them are asked for and whatever
// page: such a number may stand on two people's studies, by mistake or because
// its issuer was not asked for. person has no entries, and nothing is said,
// where all are one patient's as far as anybody says.
func apart(x *index.Index, q index.Query) (person map[string]int, said []string, err error) {
	under := index.Query{PatientID: q.PatientID, Issuer: q.Issuer, NHS: q.NHS, Limit: maxUnder}
	if q.NHS == "" && (q.PatientID == "" || strings.ContainsAny(q.PatientID, "*?")) {
		return nil, nil, nil
	}
	if x.Check(under) != nil {
		return nil, nil, nil // the search itself says what is wrong with it
	}
	ans, err := x.Studies(under)
	if err != nil {
		return nil, nil, err
	}
	person = make(map[string]int)
	people, further := 0, ans.More
	for _, s := range ans.Studies {
		if person[s.UID] > 0 {
			continue
		}
		if people == maxPeople {
			further = true
			break
		}
		p, err := x.Patient(s.UID)
		if err != nil {
			return nil, nil, err
		}
		who := 0
		for _, uid := range p.Certain { // whichever of a patient's studies is looked at first
			if who == 0 {
				who = person[uid]
			}
		}
		if who == 0 {
			people++
			who = people
		}
		person[s.UID] = who
		for _, uid := range p.Certain {
			if person[uid] == 0 {
				person[uid] = who
			}
		}
	}
	if people < 2 && !further {
		return nil, nil, nil
	}
	if people < 2 {
		return nil, []string{fmt.Sprintf("more than %d studies bear this number, and only the newest were looked at to see whether they are one patient's", maxUnder)}, nil
	}
	count := fmt.Sprint(people)
	if further {
		count += " and perhaps more"
	}
	return person, []string{fmt.Sprintf("the studies that bear this number are not known to be one patient's: %s patients are told apart by birth date, name or issuer of the number; compare them before you take a study of one for a prior of another", count)}, nil
}

// otherIssuer says where the digits of an NHS number stand as a Patient ID of
// an issuer that does not give NHS numbers: such studies are not found by it.
func otherIssuer(x *index.Index, q index.Query) ([]string, error) {
	if q.NHS == "" {
		return nil, nil
	}
	n, more := 0, false
	for _, written := range []string{q.NHS, q.NHS[:3] + " " + q.NHS[3:6] + " " + q.NHS[6:], q.NHS[:3] + "-" + q.NHS[3:6] + "-" + q.NHS[6:]} {
		ans, err := x.Studies(index.Query{PatientID: written, Limit: maxUnder})
		if err != nil {
			return nil, err
		}
		more = more || ans.More
		for _, s := range ans.Studies {
			other := true
			for _, st := range s.Statements {
				other = other && st.Value.NHS != q.NHS
			}
			if other {
				n++
			}
		}
	}
	if n == 0 {
		return nil, nil
	}
	count := counted(n, "study is not found by this NHS number although it has", "studies are not found by this NHS number although they have")
	if more {
		count = "at least " + count
	}
	return []string{count + " its digits as a Patient ID: the issuer there is another than the NHS, and what such a number means is for the issuer to say. Find them with --patient, and see that the images or the trust's identity.default_issuer name the issuer"}, nil
}
