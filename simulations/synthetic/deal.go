package synthetic

import (
	"math"
	"math/bits"
)

// maxStudies is the most studies a patient has.
const maxStudies = 40

// draw is a stream of random numbers that belongs to one thing: SplitMix64.
type draw uint64

// drawFor begins the stream of a thing: of some sort, with a number.
func drawFor(seed uint64, sort string, number uint64) draw {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(sort) {
		h = (h ^ uint64(sort[i])) * 1099511628211
	}
	return draw(mix(mix(seed^h) ^ number))
}

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (d *draw) next() uint64 {
	*d += 0x9e3779b97f4a7c15
	return mix(uint64(*d))
}

// n is one of 0 to n-1.
func (d *draw) n(n int) int {
	hi, _ := bits.Mul64(d.next(), uint64(n))
	return int(hi)
}

// part is in [0, 1).
func (d *draw) part() float64 { return float64(d.next()>>11) / (1 << 53) }

// chance is true with probability p.
func (d *draw) chance(p float64) bool { return d.part() < p }

// between is one of lo to hi; low ones are the more frequent.
func (d *draw) between(lo, hi int) int {
	p := d.part()
	return lo + int(p*p*float64(hi-lo+1))
}

// weights chooses by weight.
type weights []float64 // running sums

func weigh(n int, of func(i int) float64) weights {
	w, sum := make(weights, n), 0.0
	for i := range w {
		sum += of(i)
		w[i] = sum
	}
	return w
}

// zipf weighs ranks by 1/(rank+shift)^s.
func zipf(n int, shift, s float64) weights {
	return weigh(n, func(i int) float64 { return math.Pow(float64(i)+shift, -s) })
}

// at finds whose part of the whole p is, and where in its part.
func (w weights) at(p float64) (i int, within float64) {
	want := p * w[len(w)-1]
	lo, hi := 0, len(w)-1
	for lo < hi {
		if m := (lo + hi) / 2; w[m] > want {
			hi = m
		} else {
			lo = m + 1
		}
	}
	from := 0.0
	if lo > 0 {
		from = w[lo-1]
	}
	return lo, (want - from) / (w[lo] - from)
}

func (w weights) choose(d *draw) int {
	i, _ := w.at(d.part())
	return i
}

// shuffle is a permutation of 0 to n-1 that is computed and not kept: a Feistel
// network over the next power of two, walked until it is back inside.
type shuffle struct {
	n           uint64
	left, right int // bits
	keys        [6]uint64
}

func newShuffle(d draw, n int) shuffle {
	b := max(2, bits.Len64(uint64(max(n, 1)-1)))
	s := shuffle{n: uint64(n), left: b / 2, right: b - b/2}
	for i := range s.keys {
		s.keys[i] = d.next()
	}
	return s
}

func (s *shuffle) round(i int, l, r uint64) (uint64, uint64) {
	if i%2 == 0 {
		return l ^ mix(r^s.keys[i])&(1<<s.left-1), r
	}
	return l, r ^ mix(l^s.keys[i])&(1<<s.right-1)
}

func (s *shuffle) at(i int) int {
	x := uint64(i)
	for {
		l, r := x>>s.right, x&(1<<s.right-1)
		for k := range s.keys {
			l, r = s.round(k, l, r)
		}
		if x = l<<s.right | r; x < s.n {
			return int(x)
		}
	}
}

// back is at's inverse.
func (s *shuffle) back(i int) int {
	x := uint64(i)
	for {
		l, r := x>>s.right, x&(1<<s.right-1)
		for k := len(s.keys) - 1; k >= 0; k-- {
			l, r = s.round(k, l, r)
		}
		if x = l<<s.right | r; x < s.n {
			return int(x)
		}
	}
}

// deal says how many studies each patient has: the patients with n of them
// follow on those with n-1. A patient's studies are neighbours among the slots;
// a shuffle makes a slot the place of a study in time.
type deal struct {
	patients int
	count    [maxStudies + 1]int // patients with n studies
	place    shuffle             // slot -> place in time
}

// newDeal deals studies to about that many patients. The chance of n studies
// falls with a power of n that makes the mean right.
func newDeal(d draw, studies, patients int) deal {
	mean := float64(studies) / float64(patients)
	lo, hi := -8.0, 8.0
	chance := func(a float64) (w weights, mean float64) {
		w = weigh(maxStudies, func(i int) float64 { return math.Pow(float64(i+1), -a) })
		for i := range w {
			mean += math.Pow(float64(i+1), 1-a)
		}
		return w, mean / w[len(w)-1]
	}
	for range 60 {
		a := (lo + hi) / 2
		if _, m := chance(a); m > mean {
			lo = a
		} else {
			hi = a
		}
	}
	w, _ := chance(hi)
	var out deal
	given, slots := 0, 0
	for n := 1; n <= maxStudies; n++ {
		k := int(math.Round(float64(patients)*w[n-1]/w[maxStudies-1])) - given
		out.count[n] = k
		given += k
		slots += n * k
	}
	// What rounding left over.
	for ; slots > studies; slots-- {
		n := 1
		for n < maxStudies && out.count[n] == 0 || n == 1 && out.any(2) {
			n++
		}
		out.count[n]--
		out.count[n-1]++
	}
	out.count[1] += studies - slots
	out.count[0] = 0
	for _, k := range out.count {
		out.patients += k
	}
	out.place = newShuffle(d, studies)
	return out
}

// any says whether any patient has n studies or more.
func (d *deal) any(n int) bool {
	for ; n <= maxStudies; n++ {
		if d.count[n] > 0 {
			return true
		}
	}
	return false
}

// whose says whose the i-th study in time is.
func (d *deal) whose(i int) (patient int) {
	slot := d.place.back(i)
	for n := 1; ; n++ {
		if slot < n*d.count[n] {
			return patient + slot/n
		}
		slot -= n * d.count[n]
		patient += d.count[n]
	}
}

// of appends the places of a patient's studies, in no order.
func (d *deal) of(patient int, out []int) []int {
	slot := 0
	for n := 1; ; n++ {
		if patient < d.count[n] {
			for k := range n {
				out = append(out, d.place.at(slot+patient*n+k))
			}
			return out
		}
		slot += n * d.count[n]
		patient -= d.count[n]
	}
}
