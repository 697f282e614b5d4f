// Package synthetic makes up the studies of a region: ten years of imaging of
// eight trusts, of any size, the same for the same seed.
//
// Every study is a function of the seed and its number, so nothing is kept: the
// first thousand of ten million cost what a thousand cost, any one of them can be
// looked up, and all of them are made in the order of time in no more memory than
// one takes. The pieces:
//
//   - who: a patient has 1 to 40 studies, most of them few. Which of the region's
//     studies are his is a permutation of their numbers (deal.go).
//   - when: working days, office hours, nights and holidays, a few percent more
//     each year (calendar.go).
//   - what: a list of examinations with how often each is made; series, instances
//     and bytes go with it (exams.go).
//   - names: frequent ones by Zipf's law and a long tail put together from
//     syllables; hyphens, apostrophes, accents, several words (names.go).
//   - how it is written: each trust has its own numbers, UIDs, capitals, accents
//     and habits of time (synthetic.go).
//
// What lives here: the making up, for simulations and benchmarks. What may not:
// anybody's real data, a clock, a source of randomness but the seed, I/O.
//
// It writes nothing; what it makes are bodies of "study" facts (package index).
package synthetic
