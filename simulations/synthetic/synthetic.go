package synthetic

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/priormesh/priormesh/cas"
	"github.com/priormesh/priormesh/index"
)

// A Trust is one of the region's, with its habits of writing.
type Trust struct {
	ID       index.TrustID
	Name     string
	Share    float64 // of the region's patients; only their proportions count
	Root     string  // of its UIDs
	Capitals bool    // writes names in capitals
	Plain    bool    // and without accents
	Titles   bool    // with titles
	Fraction bool    // gives the fraction of a second
	Zone     bool    // gives the timezone offset
	Issuer   string  // what it calls the issuer of NHS numbers
	Local    string  // its patient numbers, as fmt writes a number
}

// Trusts are the eight of a region: two large ones, four of middle size, two small ones.
func Trusts() []Trust {
	const oid = "2.16.840.1.113883.2.1.4.1"
	return []Trust{
		{"RX1", "Royal Northgate University Hospitals", 0.24, "1.2.826.0.1.3680043.9.7001", true, true, false, true, false, oid, "%07d"},
		{"RBD", "St Aldhelm's Teaching Hospitals", 0.19, "1.2.826.0.1.3680043.9.7002", true, false, true, true, true, "NHS", "D%07d"},
		{"RCF", "Westmoor Acute Hospitals", 0.14, "1.2.826.0.1.3680043.9.7003", false, false, false, false, false, oid, "WM%06d"},
		{"RDK", "Three Rivers Hospitals", 0.12, "1.2.826.0.1.3680043.9.7004", true, true, false, false, false, oid, "%08d"},
		{"REN", "Eastbrook General Hospitals", 0.11, "1.2.826.0.1.3680043.9.7005", false, false, true, true, true, oid, "EB%07d"},
		{"RGP", "Hartley and Downs Hospitals", 0.09, "1.2.826.0.1.3680043.9.7006", true, false, false, false, false, "NHS", "H%06d"},
		{"RHQ", "Penrose Children's and Women's Hospital", 0.06, "1.2.826.0.1.3680043.9.7007", false, false, false, false, true, oid, "%07d"},
		{"RJ7", "Saltmarsh Community Hospitals", 0.05, "1.2.826.0.1.3680043.9.7008", true, true, false, false, false, oid, "SM-%06d"},
	}
}

// Options say how large a region is.
type Options struct {
	Seed      uint64
	Studies   int
	Patients  int     // about; 0: a patient has 5.9 studies on average
	Trusts    []Trust // nil: the eight of Trusts
	Shared    float64 // share of patients who go to more trusts than one
	Corrected float64 // share of studies that are said again, mended, some days later
	Growing   float64 // share of studies that are said first while they still grow
}

// Defaults is an archive that was loaded whole: nothing in it still grows.
func Defaults(studies int) Options {
	return Options{Seed: 1, Studies: studies, Shared: 0.03, Corrected: 0.01}
}

// Region is the studies of a region. It does not change, and anybody may use it
// at any time.
type Region struct {
	opt      Options
	deal     deal
	calendar calendar
	share    weights
	shared   float64   // of who has two studies or more
	numbers  []shuffle // of each trust's patient numbers
	doctors  [][]string
}

// Limit on a region: what its numbers have digits for.
const MaxStudies = 100_000_000

// New makes up a region.
func New(opt Options) (*Region, error) {
	if opt.Trusts == nil {
		opt.Trusts = Trusts()
	}
	if opt.Patients == 0 {
		opt.Patients = max(1, int(math.Round(float64(opt.Studies)/5.88)))
	}
	if opt.Studies < 1 || opt.Studies > MaxStudies || len(opt.Trusts) == 0 {
		return nil, fmt.Errorf("synthetic: %d studies of %d trusts: want 1 to %d, and a trust", opt.Studies, len(opt.Trusts), MaxStudies)
	}
	if mean := float64(opt.Studies) / float64(opt.Patients); opt.Patients < 1 || mean < 1 || mean > maxStudies {
		return nil, fmt.Errorf("synthetic: %d studies of %d patients: a patient has 1 to %d", opt.Studies, opt.Patients, maxStudies)
	}
	for _, p := range []float64{opt.Shared, opt.Corrected, opt.Growing} {
		if !(p >= 0 && p <= 1) {
			return nil, errors.New("synthetic: a share is not between 0 and 1")
		}
	}
	r := &Region{
		opt:      opt,
		deal:     newDeal(drawFor(opt.Seed, "places", 0), opt.Studies, opt.Patients),
		calendar: newCalendar(),
		share:    weigh(len(opt.Trusts), func(i int) float64 { return opt.Trusts[i].Share }),
	}
	if more := r.deal.patients - r.deal.count[1]; len(opt.Trusts) > 1 && more > 0 {
		r.shared = opt.Shared * float64(r.deal.patients) / float64(more)
	}
	for i, t := range opt.Trusts {
		d := drawFor(opt.Seed, "trust", uint64(i))
		r.numbers = append(r.numbers, newShuffle(d, r.deal.patients))
		names := make([]string, max(20, int(600*t.Share)))
		for k := range names {
			of := peopleWeights.choose(&d)
			p := &peoples[of]
			sex := [2]string{"F", "M"}[d.n(2)]
			names[k] = t.write(p.chooseFamily(&d, of)) + "^" + t.write(p.chooseGiven(&d, of, sex)[:1]) + "^^" + t.write("Dr")
		}
		r.doctors = append(r.doctors, names)
	}
	return r, nil
}

// Len is how many studies there are; those of Options.
func (r *Region) Len() int { return r.opt.Studies }

// Patients is how many patients have them.
func (r *Region) Patients() int { return r.deal.patients }

// Trusts are the region's, by number.
func (r *Region) Trusts() []Trust { return slices.Clone(r.opt.Trusts) }

// Patient is the number of the patient of the i-th study.
func (r *Region) Patient(i int) int { return r.deal.whose(i) }

// Of are the numbers of a patient's studies, in order of time.
func (r *Region) Of(patient int) []int {
	out := r.deal.of(patient, nil)
	slices.Sort(out)
	return out
}

// Time is when the i-th study was made, UTC.
func (r *Region) Time(i int) time.Time {
	return r.calendar.at((float64(i) + 0.5) / float64(r.opt.Studies))
}

// person is a patient as himself.
type person struct {
	born                 time.Time
	birth, sex           string
	family, given, other string
	maiden               string // family name up to a study
	until                int
	nhs                  string
	trusts               []int // one, or more
	first, last          int   // studies
}

// ageWeights are the ages of who is imaged, by decade.
var ageWeights = weigh(10, func(i int) float64 {
	return [10]float64{6.5, 6, 9, 10, 12, 15.5, 16, 14.5, 8.5, 2}[i]
})

func (r *Region) person(patient int) (p person) {
	var buf [maxStudies]int
	first, last := r.opt.Studies, -1
	for _, i := range r.deal.of(patient, buf[:0]) {
		first, last = min(first, i), max(last, i)
	}
	d := drawFor(r.opt.Seed, "patient", uint64(patient))
	decade, within := ageWeights.at(d.part())
	p.born = r.Time(first).AddDate(0, 0, -int((float64(decade)*10+within*10)*365.25))
	p.birth = p.born.Format("20060102")
	switch x := d.part(); {
	case x < 0.544:
		p.sex = "F"
	case x < 0.997:
		p.sex = "M"
	case x < 0.999:
		p.sex = "O"
	}
	of := peopleWeights.choose(&d)
	own := &peoples[of]
	p.family, p.given = own.chooseFamily(&d, of), own.chooseGiven(&d, of, p.sex)
	if d.chance(0.45) {
		p.other = own.chooseGiven(&d, of, p.sex)
	}
	if d.chance(0.02) && p.sex == "F" {
		p.maiden, p.until = own.chooseFamily(&d, of), first+d.n(last-first+1)
	}
	p.nhs = nhsNumber(patient)
	if d.chance(0.035) {
		p.nhs = "" // a visitor, or not found
	}
	p.trusts = append(p.trusts, r.share.choose(&d))
	p.first, p.last = first, last
	if last > first && d.chance(r.shared) {
		want := 2
		for want < len(r.opt.Trusts) && d.chance(0.15) {
			want++
		}
		for tries := 0; len(p.trusts) < want && tries < 100; tries++ {
			if t := r.share.choose(&d); !slices.Contains(p.trusts, t) {
				p.trusts = append(p.trusts, t)
			}
		}
	}
	return p
}

// at is the number of the trust where a patient's i-th study of all was made.
func (p *person) at(d *draw, i int) int {
	switch {
	case len(p.trusts) == 1 || i == p.first:
		return p.trusts[0]
	case i == p.last:
		return p.trusts[1]
	}
	return p.trusts[d.n(len(p.trusts))]
}

// nhsNumber is the patient's: nine digits in the range in use, and the check digit by modulus 11.
func nhsNumber(patient int) string {
	// One number a patient: neighbours differ in all digits, and of each eleven a few have no check digit.
	const span = 300_000_000 // 400 000 000 to 699 999 999
	for try := 0; ; try++ {
		nine := 400_000_000 + int((uint64(patient)*16+uint64(try))*102_345_677%span)
		sum := 0
		for k, rest := 2, nine; k <= 10; k, rest = k+1, rest/10 {
			sum += k * (rest % 10)
		}
		if check := (11 - sum%11) % 11; check != 10 {
			return fmt.Sprintf("%09d%d", nine, check)
		}
	}
}

func (t *Trust) write(s string) string {
	if t.Plain {
		s = unaccented(s)
	}
	if t.Capitals {
		s = strings.ToUpper(s)
	}
	return s
}

// Study is the i-th in order of time as its trust says it in the end, and the number of that trust.
func (r *Region) Study(i int) (trust int, s index.Study) {
	patient := r.deal.whose(i)
	p := r.person(patient)
	d := drawFor(r.opt.Seed, "study", uint64(i))
	f := r.fate(i)
	number := p.at(&d, i)
	t := &r.opt.Trusts[number]
	at := r.Time(i)
	e := chooseExam(&d, attended(at), p.sex, int(at.Sub(p.born).Hours()/24/365.25))

	local := fmt.Sprintf(t.Local, r.numbers[number].at(patient)+10_001)
	s = index.Study{
		UID:     fmt.Sprintf("%s.%d.%d.%d", t.Root, 11+d.n(60), at.Unix(), i+1),
		Patient: []index.PatientID{{ID: local, Issuer: string(t.ID)}},
		Sex:     p.sex, BirthDate: p.birth,
		Date: at.Format("20060102"), Time: at.Format("150405"),
		Accession: fmt.Sprintf("%s%s%08d", t.ID, at.Format("06"), i+1), AccessionIssuer: string(t.ID),
		Description: e.text, Modalities: slices.Clone(e.modalities),
		Referring: r.doctors[number][d.between(0, len(r.doctors[number])-1)],
		Revision:  1, Settled: true,
	}
	if p.nhs != "" && !d.chance(0.04) { // unknown at the time, in an emergency
		s.NHS = p.nhs
		s.Patient = append(s.Patient, index.PatientID{ID: p.nhs, Issuer: t.Issuer})
	}
	family, given := p.family, p.given
	if p.maiden != "" && i < p.until {
		family = p.maiden
	}
	if d.chance(0.005) {
		family = misspelt(&d, family)
	} else if d.chance(0.003) {
		given = misspelt(&d, given)
	}
	name := []string{t.write(family), t.write(given), t.write(p.other), "", ""}
	if t.Titles {
		switch p.sex {
		case "F":
			name[3] = t.write("Mrs")
		case "M":
			name[3] = t.write("Mr")
		}
	}
	s.Name = strings.TrimRight(strings.Join(name, "^"), "^")
	if t.Capitals {
		s.Description = strings.ToUpper(s.Description)
	}
	if t.Fraction && d.chance(0.7) {
		s.Time += fmt.Sprintf(".%03d", d.n(1000))
	}
	if t.Zone && d.chance(0.6) {
		s.TimezoneOffset = "+0000"
		if summer(at) {
			s.TimezoneOffset = "+0100"
		}
	}
	if d.chance(0.6) {
		s.StudyID = fmt.Sprint(1 + d.n(99999))
	}
	if e.part != "" && !d.chance(0.1) {
		s.BodyParts = []string{e.part}
	}
	s.Series = d.between(e.series[0], e.series[1])
	for range s.Series {
		n := d.between(e.images[0], e.images[1])
		s.Instances += n
		s.Bytes += int64(n) * int64(e.size-d.n(e.size/16))
	}
	s.Received = at.Add(time.Duration(300+d.n(3600)) * time.Second).Truncate(time.Second)
	if f.grows {
		s.Revision++
	}
	if f.mended {
		s.Revision++
	}
	s.Manifest = manifest(&d, s.Series)
	return number, s
}

// fate is what becomes of a study after it was first said.
type fate struct{ grows, mended bool }

func (r *Region) fate(i int) (f fate) {
	if i < 0 || i >= r.opt.Studies {
		return f
	}
	d := drawFor(r.opt.Seed, "fate", uint64(i))
	return fate{grows: d.chance(r.opt.Growing), mended: d.chance(r.opt.Corrected)}
}

// manifest is a reference to a manifest that is nowhere.
func manifest(d *draw, series int) []byte {
	b := []byte{1, cid.Raw, 0x12, 32} // CIDv1, raw, SHA-256
	for range 4 {
		x := d.next()
		for k := range 8 {
			b = append(b, byte(x>>(8*k)))
		}
	}
	c, err := cid.Cast(b)
	if err != nil {
		panic(err) // its four bytes above are wrong
	}
	out, err := cas.Ref{CID: c, Size: int64(600 + 380*series + d.n(200))}.MarshalCBOR()
	if err != nil {
		panic(err)
	}
	return out
}

// earlier is what was said of a study before it was mended.
func earlier(seed uint64, i int, s index.Study) index.Study {
	d := drawFor(seed, "mistake", uint64(i))
	s.Revision--
	s.Manifest = manifest(&d, s.Series)
	s.Patient = slices.Clone(s.Patient)
	switch x := d.part(); {
	case x < 0.4:
		s.Description = "Examination"
	case x < 0.6:
		s.Accession, s.AccessionIssuer = "", ""
	case x < 0.75:
		family, rest, _ := strings.Cut(s.Name, "^")
		s.Name = misspelt(&d, family) + "^" + rest
	case x < 0.85:
		s.BirthDate = s.BirthDate[:6] + fmt.Sprintf("%02d", 1+d.n(28))
	case x < 0.95:
		s.NHS, s.Patient = "", s.Patient[:1]
	default: // under a number that was nobody's
		s.NHS, s.Patient = "", []index.PatientID{{ID: fmt.Sprintf("TEMP%d", i+1), Issuer: s.Patient[0].Issuer}}
	}
	return s
}

// growing is what was said of a study while it still grew.
func growing(seed uint64, i int, s index.Study) index.Study {
	d := drawFor(seed, "growing", uint64(i))
	s.Revision, s.Settled = 1, false
	s.Series, s.Instances, s.Bytes = max(1, s.Series/2), max(1, s.Instances/2), s.Bytes/2
	s.Manifest = manifest(&d, s.Series)
	return s
}

// Facts are what the trusts say, in the order of time: the number of the trust, and its words. The last that is said of the
// i-th study is Study(i).
func (r *Region) Facts() iter.Seq2[int, index.Study] {
	return func(yield func(int, index.Study) bool) {
		settles := 1 + r.opt.Studies/300_000  // studies later: some minutes
		mends := settles + r.opt.Studies/1200 // about three days
		for now := range r.opt.Studies + mends {
			if i := now; i < r.opt.Studies {
				trust, s := r.Study(i)
				f := r.fate(i)
				if f.mended {
					s = earlier(r.opt.Seed, i, s)
				}
				if f.grows {
					s = growing(r.opt.Seed, i, s)
				}
				if !yield(trust, s) {
					return
				}
			}
			if i := now - settles; r.fate(i).grows {
				trust, s := r.Study(i)
				if r.fate(i).mended {
					s = earlier(r.opt.Seed, i, s)
				}
				if !yield(trust, s) {
					return
				}
			}
			if i := now - mends; r.fate(i).mended {
				if trust, s := r.Study(i); !yield(trust, s) {
					return
				}
			}
		}
	}
}
