// Package priors decides what to bring before it is asked for.
//
// The rule: when a study arrives here (from a modality or PACS, not by a
// backfill), every other study that is certainly of the same patient is
// brought, newest first. Who is the same patient is the index's word; a
// possible match never moves by itself. For as long as the window lasts after
// an arrival, a study of the patient that turns up elsewhere is brought too,
// so that a partition or a late transfer delays priors and loses none.
//
// The rule looks at what is known, not at what has just happened: it is worked
// out again from the arrivals on disk whenever the index hears of a study and
// when the node starts. Asking for a study twice is harmless. So the package
// keeps nothing of its own.
//
// Studies of which the same is said have one patient, so what is heard of many
// at once is worked out once for all of them. For one identifier the work is
// bounded (maxLooks, maxPriors): beyond that, which only test objects and
// collective numbers reach, a study comes when it is asked for.
//
// What may not be here: moving bytes (node/archive does), who may have a study
// (node/access).
package priors
