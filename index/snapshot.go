package index

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// KindSnapshot is the kind of a Snapshot; its subject is its author's node ID.
const KindSnapshot Kind = "snapshot"

// Snapshot is the body of a "snapshot" fact: its author says that of all it has said up to a head, exactly the facts in some pages still
// hold. Whoever has the pages drops the rest, and takes the head for the beginning of the log.
//
// What it covers: everything of the author's earlier epochs, and of the head's epoch everything up to the head. So an author makes one
// only while all that holds lies in one epoch, that is, not before NewEpoch has said everything anew. What was said after the head, in
// this epoch or in a later one, is not touched by it; the snapshot fact itself is said there, in the same epoch.
//
// A fact holds in a snapshot if it was said in the head's epoch up to the head, was the newest of its kind and subject there, was not
// taken back there, and is no snapshot: the snapshot that is being made replaces the one before. Of the facts of unknown kinds each
// newest one holds; retractions do, for they tell those who were away what to erase. What is said or taken back after the head makes no
// difference to the pages: a payload that was dropped since stays a commitment in its page.
type Snapshot struct {
	Head  Head     // the newest position it covers, with its own signature
	Facts uint64   // how many facts hold. This and Bytes are the author's word, good for showing progress
	Pages uint64   // in how many pages they lie
	Bytes uint64   // of these pages
	Root  [32]byte // SHA-256 of the list of sheets
}

// Limits on a snapshot.
const (
	PageSpan   = 64   // positions that a page may span; facts in it
	MaxSheet   = 1024 // pages in a sheet. All sheets but the last are full
	MaxSheets  = 4096 // sheets in a snapshot
	maxPages   = MaxSheet * MaxSheets
	maxRefs    = 64 // bytes of a list beside its entries
	refSize    = 8 + 32
	maxSheetIn = MaxSheet*refSize + maxRefs
	maxListIn  = MaxSheets*refSize + maxRefs
)

const snapshotVersion = 1

// snapshotBody is the CBOR of a Snapshot. Fields that are added keep the version, a new meaning of one changes it.
type snapshotBody struct {
	Version uint64 `cbor:"0,keyasint"`
	Epoch   Epoch  `cbor:"1,keyasint"`
	Seq     Seq    `cbor:"2,keyasint"`
	Hash    []byte `cbor:"3,keyasint"`
	Sig     []byte `cbor:"4,keyasint"`
	Facts   uint64 `cbor:"5,keyasint"`
	Pages   uint64 `cbor:"6,keyasint"`
	Bytes   uint64 `cbor:"7,keyasint"`
	Root    []byte `cbor:"8,keyasint"`
}

// SnapshotStatement says a snapshot. It is to be said in the epoch of its head, and nowhere else.
func SnapshotStatement(s Snapshot) (Statement, error) {
	st := Statement{Kind: KindSnapshot, Subject: s.Head.Node.String(), Body: encode(snapshotBody{
		Version: snapshotVersion, Epoch: s.Head.Epoch, Seq: s.Head.Seq, Hash: s.Head.Hash[:], Sig: s.Head.Sig,
		Facts: s.Facts, Pages: s.Pages, Bytes: s.Bytes, Root: s.Root[:],
	})}
	_, err := decodeSnapshot(st.Subject, st.Body)
	return st, err
}

// decodeSnapshot reads a snapshot and checks the signature of its head. Where it was said is for placed to check.
func decodeSnapshot(subject string, body []byte) (Snapshot, error) {
	malformed := func(why string) (Snapshot, error) { return Snapshot{}, &MalformedError{What: "snapshot", Why: why} }
	node, err := ParseNodeID(subject)
	if err != nil {
		return malformed("its subject is no node ID")
	}
	var b snapshotBody
	if err := decode(factMode, "snapshot", body, &b); err != nil {
		return Snapshot{}, err
	}
	switch {
	case b.Version != snapshotVersion:
		return Snapshot{}, &VersionError{What: "snapshot", Got: b.Version}
	case len(b.Hash) != 32 || len(b.Root) != 32:
		return malformed("a hash is not 32 bytes")
	case b.Pages > maxPages:
		return Snapshot{}, &LimitError{What: "pages of a snapshot", Got: int(min(b.Pages, 1<<31-1)), Limit: maxPages}
	case b.Facts < b.Pages || b.Facts > b.Pages*PageSpan || b.Facts > uint64(b.Seq):
		return malformed("so many facts do not lie in so many pages")
	case b.Bytes > b.Pages*MaxPageBytes:
		return malformed("so many bytes do not lie in so many pages")
	}
	s := Snapshot{
		Head:  Head{Node: node, Epoch: b.Epoch, Seq: b.Seq, Hash: [32]byte(b.Hash), Sig: b.Sig},
		Facts: b.Facts, Pages: b.Pages, Bytes: b.Bytes, Root: [32]byte(b.Root),
	}
	return s, s.Head.verify()
}

// placed checks a snapshot against where it was said.
func (s Snapshot) placed(author NodeID, at Position) error {
	malformed := func(why string) error { return &MalformedError{What: "snapshot", Why: why} }
	switch {
	case s.Head.Node != author:
		return malformed("it is of another node's log than the one it was said in")
	case s.Head.Epoch != at.Epoch:
		return malformed(fmt.Sprintf("it is of epoch %d and was said in epoch %d", s.Head.Epoch, at.Epoch))
	case s.Head.Seq >= at.Seq:
		return malformed("it covers the position it was said at, or later ones")
	}
	return nil
}

// through is the newest position a snapshot covers.
func (s Snapshot) through() Position { return Position{s.Head.Epoch, s.Head.Seq} }

// sheets is the number of sheets of a snapshot.
func (s Snapshot) sheets() int { return int((s.Pages + MaxSheet - 1) / MaxSheet) }

// inSheet is the number of pages in a sheet.
func (s Snapshot) inSheet(i int) int { return int(min(s.Pages-uint64(i)*MaxSheet, MaxSheet)) }

// Offered is a snapshot with the batch in which it was said: whoever has it can check all there is to check about it.
type Offered struct {
	Snapshot Snapshot
	At       Position // of the snapshot fact
	Batch    Verified
}

// newer says whether a snapshot is to be preferred to another one of the same log: it covers more, or was said later.
func (o Offered) newer(than Offered) bool {
	return cmp.Or(o.Snapshot.through().compare(than.Snapshot.through()), o.At.compare(than.At)) > 0
}

// ReadSnapshot finds the last snapshot said in a batch that its node may say there. The error says why there is none: a *VersionError when
// a newer program made it, a *MalformedError or *ForgedError when it is wrong.
func ReadSnapshot(v Verified) (Offered, error) {
	var err error = &MalformedError{What: "offer of a snapshot", Why: "no snapshot is said in its batch"}
	for i := len(v.batch.Payloads) - 1; i >= 0; i-- {
		p := v.batch.Payloads[i]
		if p.dropped() || !saysSnapshot(p.Data) {
			continue
		}
		st, derr := decodePayload(p.Data)
		if derr != nil {
			continue
		}
		at := Position{v.link.head.Epoch, v.link.first + Seq(i)}
		s, serr := decodeSnapshot(st.Subject, st.Body)
		if serr == nil {
			serr = s.placed(v.link.head.Node, at)
		}
		if serr == nil {
			return Offered{Snapshot: s, At: at, Batch: v}, nil
		}
		err = serr
	}
	return Offered{}, err
}

// saysSnapshot says whether a payload is a snapshot fact.
func saysSnapshot(payload []byte) bool {
	if !bytes.Contains(payload[:min(len(payload), 64)], []byte(KindSnapshot)) {
		return false
	}
	s, err := decodePayload(payload)
	return err == nil && s.Kind == KindSnapshot
}

// PageRef is an entry of a sheet: a page by the first position that it holds, and its hash. An entry of the list of sheets is the
// same for a sheet.
type PageRef struct {
	First Seq
	Hash  [32]byte
}

// refList is the CBOR of a sheet, and of the list of sheets.
type refList struct {
	Version uint64 `cbor:"0,keyasint"`
	Refs    []byte `cbor:"1,keyasint"`
}

func encodeRefs(refs []PageRef) []byte {
	b := make([]byte, 0, len(refs)*refSize)
	for _, r := range refs {
		b = binary.BigEndian.AppendUint64(b, uint64(r.First))
		b = append(b, r.Hash[:]...)
	}
	return encode(refList{Version: snapshotVersion, Refs: b})
}

// readRefs reads a list of want entries whose hash is known. Whoever sends one that does not hold to the form is at fault, also where its
// author signed the hash: nobody who checks passes it on.
func readRefs(what string, node NodeID, raw []byte, hash [32]byte, want, limit int) ([]PageRef, error) {
	malformed := func(why string) ([]PageRef, error) { return nil, &MalformedError{What: what, Why: why} }
	if len(raw) > limit*refSize+maxRefs {
		return nil, &LimitError{What: "bytes of a " + what, Got: len(raw), Limit: limit*refSize + maxRefs}
	}
	if sha256.Sum256(raw) != hash {
		return nil, &ForgedError{What: "a " + what, Node: node}
	}
	l, err := decodeStrict[refList](what, raw)
	switch {
	case err != nil:
		return nil, err
	case l.Version != snapshotVersion:
		return malformed("it is of another version than its snapshot")
	case len(l.Refs) != want*refSize:
		return malformed(fmt.Sprintf("%d bytes of entries, want %d of %d", len(l.Refs), want, refSize))
	}
	refs := make([]PageRef, want)
	for i := range refs {
		b := l.Refs[i*refSize:]
		refs[i] = PageRef{First: Seq(binary.BigEndian.Uint64(b)), Hash: [32]byte(b[8:refSize])}
		if refs[i].First < 1 || refs[i].First > MaxSeq || i > 0 && refs[i-1].First >= refs[i].First {
			return malformed("its entries are not in ascending order of positions")
		}
	}
	return refs, nil
}

// ReadList checks the list of sheets of a snapshot.
func (s Snapshot) ReadList(raw []byte) ([]PageRef, error) {
	refs, err := readRefs("list of sheets", s.Head.Node, raw, s.Root, s.sheets(), MaxSheets)
	if err == nil && len(refs) > 0 && refs[len(refs)-1].First > s.Head.Seq {
		return nil, &MalformedError{What: "list of sheets", Why: "it goes on after the end of its snapshot"}
	}
	return refs, err
}

// ReadSheet checks a sheet of a snapshot, whose list is at hand.
func (s Snapshot) ReadSheet(list []PageRef, i int, raw []byte) ([]PageRef, error) {
	refs, err := readRefs("sheet", s.Head.Node, raw, list[i].Hash, s.inSheet(i), MaxSheet)
	if err != nil {
		return nil, err
	}
	end := s.Head.Seq + 1
	if i+1 < len(list) {
		end = list[i+1].First
	}
	if refs[0].First != list[i].First || refs[len(refs)-1].First >= end {
		return nil, &MalformedError{What: "sheet", Why: "its pages are not where the list of sheets says"}
	}
	return refs, nil
}

// SnapshotCounts is what an author knows of its own log.
type SnapshotCounts struct {
	InLog     uint64 // facts and covered pages' facts that the log consists of: what a new node would have to fetch
	Hold      uint64 // of these, facts that hold
	Since     uint64 // facts said since the newest snapshot's head; all, without a snapshot
	Withdrawn uint64 // facts taken back since the newest snapshot's head
}

// When to make a snapshot. One costs every peer the sheets, two thirds of a byte for each fact that holds, and the pages touched, about
// thirty kilobytes each; it saves what does not hold, some five hundred bytes a fact, and lets new nodes fetch from many peers at once.
const (
	snapshotGarbage = 4    // due when facts that do not hold are a quarter of those that do
	snapshotFewest  = 4096 // and are no fewer
	snapshotErased  = 4096 // due when one of so many facts was taken back since
	snapshotErasedN = 64   // and no fewer were
	snapshotNew     = 1 << 16
)

// SnapshotReason says why a snapshot is due. The empty one says that none is.
type SnapshotReason string

// Why an author makes a snapshot.
const (
	SnapshotForGarbage  SnapshotReason = "much of the log does not hold any more"
	SnapshotForErasures SnapshotReason = "facts were taken back"
	SnapshotForGrowth   SnapshotReason = "the log has doubled"
)

// SnapshotDue says whether an author should make a snapshot, and why. No clock decides: only what a snapshot would bring, against what
// it costs all others.
//
//   - SnapshotForErasures comes first and soonest: a payload that was taken back is gone from every node that has heard so, and a
//     snapshot takes away what is left, also for nodes that hear of it late: the place in the log, the hole, the commitment. At 64 facts
//     in a small log and at one of 4096 in a large one it costs a peer at most what sending these facts anew with their pages would.
//   - SnapshotForGarbage keeps a log at no more than five quarters of what holds, but for small ones.
//   - SnapshotForGrowth gives new nodes pages to fetch from many peers at once where a log only grows. As it must double each time, all of
//     these snapshots together cost no more than two.
func SnapshotDue(c SnapshotCounts) (SnapshotReason, bool) {
	dead := c.InLog - min(c.Hold, c.InLog)
	switch {
	case c.Since == 0:
		return "", false
	case c.Withdrawn >= max(snapshotErasedN, c.Hold/snapshotErased):
		return SnapshotForErasures, true
	case dead >= max(snapshotFewest, c.Hold/snapshotGarbage):
		return SnapshotForGarbage, true
	case c.Since >= max(snapshotNew, c.Hold-min(c.Since, c.Hold)):
		return SnapshotForGrowth, true
	}
	return "", false
}
