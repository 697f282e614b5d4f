package index

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// The operations a vote may name. Votes of other operations are ignored, but keep their place in their author's count.
const (
	OpFound = "found"
	OpAdmit = "admit"
	OpExpel = "expel"
)

// Limits on a region.
const (
	MaxMembers = 128     // trusts: those that admit each other cast about 4096 votes
	MaxNodes   = 64      // nodes of a trust
	MaxSerial  = 1 << 16 // votes of a trust
	maxVote    = 32 << 10
	maxTurns   = 1 << 10 // trusts that were expelled once; and changes of one seat
)

// Vote is one trust's signed word on who belongs to the region.
type Vote struct {
	Region RegionID  `cbor:"1,keyasint"`           // zero in the founding vote, whose hash it is
	Name   string    `cbor:"2,keyasint,omitempty"` // the region's name, in the founding vote only
	Op     string    `cbor:"3,keyasint"`
	Card   Card      `cbor:"4,keyasint"`
	Basis  []TrustID `cbor:"5,keyasint,omitempty"` // sorted: the roster as its author sees it; empty in the founding vote
	By     TrustID   `cbor:"6,keyasint"`
	Serial uint64    `cbor:"7,keyasint"`           // 1, 2, 3, … for each author
	Sig    []byte    `cbor:"8,keyasint,omitempty"` // by By's trust key
	Turns  []Turn    `cbor:"9,keyasint,omitempty"` // sorted: the part of the basis that is about those who were expelled once
}

// Turn is how often a trust's seat has changed hands with the region: 1 after its admission, 2 after its expulsion, 3 after it was
// admitted again. In a basis a trust that is seated and not among the turns is at 1, and one that is in neither at 0.
type Turn struct {
	Trust TrustID `cbor:"1,keyasint"`
	N     uint64  `cbor:"2,keyasint"`
}

func (v Vote) signed() []byte {
	v.Sig = nil
	return append([]byte("priormesh-vote-1\x00"), encode(v)...)
}

// Hash names the vote, whatever its signature. That of the founding vote is the region's ID.
func (v Vote) Hash() [32]byte { return sha256.Sum256(v.signed()) }

// Encode returns the vote's deterministic CBOR.
func (v Vote) Encode() []byte { return encode(v) }

// DecodeVote reads what Encode writes. It checks form, not signature: only a roster knows a trust's key.
func DecodeVote(b []byte) (Vote, error) {
	if len(b) > maxVote {
		return Vote{}, &LimitError{What: "bytes of a vote", Got: len(b), Limit: maxVote}
	}
	v, err := decodeStrict[Vote]("vote", b)
	if err != nil {
		return Vote{}, err
	}
	return v, v.check()
}

// keptVote reads a vote from the database. A version that did not know its operation may have kept one that does not hold: EvalRoster
// passes over it.
func keptVote(b []byte) (Vote, error) {
	v, err := decodeStrict[Vote]("vote", b)
	if err != nil {
		return v, errDamaged("a vote")
	}
	return v, nil
}

// check says whether the vote has the form of a vote, of whatever operation, and its card holds.
func (v Vote) check() error {
	if err := v.form(); err != nil {
		return err
	}
	if !v.about() {
		return nil
	}
	return v.Card.Verify()
}

// about says whether the vote is of an operation that this version knows.
func (v Vote) about() bool { return v.Op == OpFound || v.Op == OpAdmit || v.Op == OpExpel }

func (v Vote) form() error {
	malformed := func(why string) error { return &MalformedError{What: "vote", Why: why} }
	switch {
	case !v.By.Valid():
		return badTrust
	case v.Serial < 1 || v.Serial > MaxSerial:
		return malformed(fmt.Sprintf("serial outside 1 to %d", MaxSerial))
	case len(v.Sig) != ed25519.SignatureSize:
		return malformed("signature is not 64 bytes")
	case len(v.Op) < 1 || len(v.Op) > MaxKind || !plain(v.Op):
		return malformed("operation is empty, too long or not plain text")
	case !plain(v.Name) || len(v.Name) > MaxName:
		return malformed("the region's name is too long or not plain text")
	case len(v.Basis) > MaxMembers:
		return &LimitError{What: "trusts in a vote's basis", Got: len(v.Basis), Limit: MaxMembers}
	case len(v.Turns) > maxTurns:
		return &LimitError{What: "turns in a vote's basis", Got: len(v.Turns), Limit: maxTurns}
	}
	for i, t := range v.Basis {
		if !t.Valid() {
			return badTrust
		}
		if i > 0 && v.Basis[i-1] >= t {
			return malformed("basis is not sorted, each trust once")
		}
	}
	for i, t := range v.Turns {
		switch {
		case !t.Trust.Valid():
			return badTrust
		case i > 0 && v.Turns[i-1].Trust >= t.Trust:
			return malformed("turns are not sorted, each trust once")
		case t.N < 2 || t.N > maxTurns || contains(v.Basis, t.Trust) != (t.N%2 == 1):
			return malformed("a turn of its basis cannot be")
		}
	}
	switch v.Op {
	case OpFound:
		if v.By != v.Card.Trust || len(v.Basis)+len(v.Turns) > 0 || v.Serial != 1 || !v.Region.IsZero() || v.Name == "" {
			return malformed("a founding vote is its author's first, of its own card, names the region, and rests on nothing")
		}
	case OpAdmit:
		if v.Region.IsZero() || v.Name != "" || !contains(v.Basis, v.By) || contains(v.Basis, v.Card.Trust) {
			return malformed("a vote to admit names a region, and its basis holds its author but not whom it admits")
		}
	case OpExpel:
		if v.Region.IsZero() || v.Name != "" || len(v.Basis) < 2 || !contains(v.Basis, v.By) || !contains(v.Basis, v.Card.Trust) {
			return malformed("a vote to expel names a region, and its basis holds its author, whom it expels, and one who stays")
		}
	}
	return nil
}

func (v Vote) verify(key ed25519.PublicKey) bool {
	return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, v.signed(), v.Sig)
}

func (v Vote) sign(key ed25519.PrivateKey) (Vote, error) {
	v.Sig = ed25519.Sign(key, v.signed())
	return v, v.check()
}

// Found makes the founding vote of a region called name, by the card's own trust. Its Hash is the RegionID.
func Found(trustKey ed25519.PrivateKey, name string, card Card) (Vote, error) {
	if !bytes.Equal(trustKey.Public().(ed25519.PublicKey), card.TrustKey) {
		return Vote{}, &VoteError{Trust: card.Trust, Why: "the card is of another trust key: a region is founded with one's own card"}
	}
	return Vote{Name: name, Op: OpFound, Card: card, By: card.Trust, Serial: 1}.sign(trustKey)
}

// Admit makes the vote of trustKey's trust to admit card, on the basis of roster. serial must be the author's next
// (Roster.NextSerial); taken twice, both votes would be void. A vote already given for the card on this basis is returned as it is.
// What the caller must have done: compared the card's Fingerprint with its owner.
func Admit(trustKey ed25519.PrivateKey, roster Roster, card Card, serial uint64) (Vote, error) {
	if err := card.Verify(); err != nil {
		return Vote{}, err
	}
	refuse := func(why string) (Vote, error) { return Vote{}, &VoteError{Trust: card.Trust, Why: why} }
	pub := trustKey.Public().(ed25519.PublicKey)
	var by TrustID
	for _, m := range roster.Members {
		switch {
		case m.Trust == card.Trust && bytes.Equal(m.TrustKey, card.TrustKey):
			return refuse("it is a member already")
		case m.Trust == card.Trust:
			return refuse("it is a member already, under another key (fingerprint " + m.Card.Fingerprint() + "; the card's is " + card.Fingerprint() + "): ask the trust which is right")
		case bytes.Equal(m.TrustKey, card.TrustKey):
			return refuse("its key is that of member " + string(m.Trust))
		case bytes.Equal(m.TrustKey, pub) && !m.Disputed:
			by = m.Trust
		}
	}
	if by == "" {
		return refuse("this trust is not on the roster itself, so its vote would not count")
	}
	if t, ok := roster.Allowed(card.NodeCert.Node); ok {
		return refuse("its node is that of member " + string(t))
	}
	if len(roster.Members) >= MaxMembers {
		return Vote{}, &LimitError{What: "members of a region", Got: len(roster.Members), Limit: MaxMembers}
	}
	return roster.cast(trustKey, by, OpAdmit, card, serial)
}

// Expel makes the vote of trustKey's trust to expel a member, on the basis of roster, as Admit makes one to admit. A trust may vote for
// its own expulsion: so it leaves. On one roster a trust's vote to expel one member is its only one to expel: so whoever has been
// expelled by a majority, and a few others with him, cannot expel that majority on the roster that he was still on.
func Expel(trustKey ed25519.PrivateKey, roster Roster, trust TrustID, serial uint64) (Vote, error) {
	refuse := func(why string) (Vote, error) { return Vote{}, &VoteError{Trust: trust, Why: why} }
	pub := trustKey.Public().(ed25519.PublicKey)
	var by TrustID
	for _, m := range roster.Members {
		if bytes.Equal(m.TrustKey, pub) && !m.Disputed {
			by = m.Trust
		}
	}
	m, ok := roster.Member(trust)
	switch {
	case by == "":
		return refuse("this trust is not on the roster itself, so its vote would not count")
	case !ok:
		return refuse("it is no member")
	case len(roster.Members) == 1:
		return refuse("it is the only member")
	}
	for _, v := range roster.counted {
		if v.By == by && v.Op == OpExpel && v.Card.Trust != trust && v.at().equal(roster.basis()) {
			return refuse(fmt.Sprintf("on this roster %s has voted to expel %s already; it can vote again to expel when the roster has changed", by, v.Card.Trust))
		}
	}
	return roster.cast(trustKey, by, OpExpel, m.Card, serial)
}

// cast signs the next vote of by on the present roster, or returns the one that it has given.
func (r Roster) cast(key ed25519.PrivateKey, by TrustID, op string, card Card, serial uint64) (Vote, error) {
	if v, ok := r.Cast(by, op, card); ok {
		return v, nil
	}
	if next := r.NextSerial(by); serial != next {
		return Vote{}, &VoteError{Trust: card.Trust, Why: fmt.Sprintf("serial %d is not the next of %s, which is %d", serial, by, next)}
	}
	b := r.basis()
	return Vote{Region: r.Region, Op: op, Card: card, Basis: b.seated, Turns: b.turns, By: by, Serial: serial}.sign(key)
}

// Cast returns the vote that a trust has given about a card on the roster as it is. One that rests on an older roster may have to be
// cast again.
func (r Roster) Cast(by TrustID, op string, card Card) (Vote, bool) {
	hash, basis := card.Hash(), r.basis()
	for _, v := range r.counted {
		if v.By == by && v.Op == op && (v.Card.Hash() == hash || op == OpExpel && v.Card.Trust == card.Trust) && v.at().equal(basis) {
			return v, true
		}
	}
	return Vote{}, false
}

// VoteError says why a vote about a trust is not given.
type VoteError struct {
	Trust TrustID
	Why   string
}

func (e *VoteError) Error() string { return fmt.Sprintf("no vote for %s: %s", e.Trust, e.Why) }

// Member is a trust on the roster.
type Member struct {
	Trust    TrustID
	Name     string
	TrustKey ed25519.PublicKey
	Card     Card // the newest seen
	Founder  bool
	Disputed bool // admitted under two keys: it keeps its seat, but none of its nodes is let in
	// Suspended says that it would be expelled if votes voided by a second vote under the same serial still counted: it keeps its seat,
	// but none of its nodes is let in.
	Suspended bool
}

// Expulsion is a member whom some want to be expelled, but not enough.
type Expulsion struct {
	Trust      TrustID
	Have, Need int
	By         []TrustID
}

// Candidate is a trust that has votes, but not enough.
type Candidate struct {
	Card       Card
	Have, Need int
	By         []TrustID
}

// Fault is a vote that does not count, and why.
type Fault struct {
	By     TrustID
	Serial uint64
	Why    string
}

// Roster is who belongs to a region: a pure function of the votes, see EvalRoster.
type Roster struct {
	Region     RegionID
	Name       string
	Members    []Member    // sorted by Trust
	Candidates []Candidate // sorted by trust
	Faults     []Fault     // sorted by author and serial
	Expulsions []Expulsion // sorted by trust
	Expelled   []TrustID   // sorted: no members any more
	Revoked    []NodeID    // sorted: nodes of members that their own trust's key has revoked

	// Unseated are trusts that would be members if votes voided by a second vote under the same serial still counted. None of
	// their nodes is let in, but an answer that lacks their word must say so.
	Unseated []TrustID

	nodes   []rosterNode // sorted by ID
	counted []Vote       // sorted by author and serial
	signed  []Vote       // by members, void ones included; sorted by author and serial
	next    map[TrustID]uint64
	turns   map[TrustID]uint64    // of everybody who was ever admitted
	revoked map[NodeID]Revocation // of members, verified
}

type rosterNode struct {
	id    NodeID
	trust TrustID
	cert  NodeCert
	addrs []string
}

// Allowed returns the trust that certifies the node, if one on the roster does.
func (r Roster) Allowed(n NodeID) (TrustID, bool) {
	i, ok := slices.BinarySearchFunc(r.nodes, n, func(a rosterNode, n NodeID) int { return a.id.Compare(n) })
	if !ok {
		return "", false
	}
	return r.nodes[i].trust, true
}

// Member returns the member named t.
func (r Roster) Member(t TrustID) (Member, bool) {
	i, ok := slices.BinarySearchFunc(r.Members, t, func(m Member, t TrustID) int { return cmp.Compare(m.Trust, t) })
	if !ok {
		return Member{}, false
	}
	return r.Members[i], true
}

// Nodes lists the nodes certified by members, sorted.
func (r Roster) Nodes() []NodeID {
	out := make([]NodeID, len(r.nodes))
	for i, n := range r.nodes {
		out[i] = n.id
	}
	return out
}

// Votes lists what the roster rests on: all votes signed by members. They are what an invitation carries.
func (r Roster) Votes() []Vote { return slices.Clone(r.signed) }

// Quorum is how many members of this roster must vote to admit a trust: the majority. It is 0 without a region.
func (r Roster) Quorum() int {
	if len(r.Members) == 0 {
		return 0
	}
	return majority(len(r.Members))
}

func majority(n int) int { return n/2 + 1 }

// Standing says how many votes a card has, how many it needs, and whose they are: on the basis that brings it closest,
// or on the present roster when none has been given.
func (r Roster) Standing(cardHash [32]byte) (have, need int, by []TrustID) {
	return r.standing(func(v Vote) bool {
		// Votes for an admission that an expulsion has ended do not count for the next.
		return v.Op == OpAdmit && v.Card.Hash() == cardHash && v.at().count(v.Card.Trust) == r.turns[v.Card.Trust]&^1
	})
}

// StandingOfExpulsion is Standing for the expulsion of a member.
func (r Roster) StandingOfExpulsion(trust TrustID) (have, need int, by []TrustID) {
	turn := r.turns[trust]
	if turn > 0 && turn%2 == 0 {
		turn-- // it is done
	}
	return r.standing(func(v Vote) bool {
		return v.Op == OpExpel && v.Card.Trust == trust && v.at().count(trust) == turn
	})
}

func (r Roster) standing(about func(Vote) bool) (have, need int, by []TrustID) {
	perBasis := map[string][]TrustID{}
	size, seats := map[string]uint64{}, map[string]int{}
	for _, v := range r.counted {
		if about(v) {
			k := v.at().key()
			perBasis[k], size[k], seats[k] = append(perBasis[k], v.By), v.at().size(), len(v.Basis)
		}
	}
	have, need, best := 0, r.Quorum(), ""
	for k, voters := range perBasis {
		h, n := len(voters), majority(seats[k])
		if d := cmp.Or(cmp.Compare(need-have, n-h), cmp.Compare(size[k], size[best]), cmp.Compare(best, k)); by == nil || d > 0 {
			have, need, by, best = h, n, voters, k
		}
	}
	slices.Sort(by)
	return have, need, by
}

// NextSerial is the serial of t's next vote, as far as the votes known tell.
func (r Roster) NextSerial(t TrustID) uint64 { return max(r.next[t], 1) }

func (r Roster) basis() basis {
	var b basis
	for _, m := range r.Members {
		b.seated = append(b.seated, m.Trust)
	}
	for t, n := range r.turns {
		if n > 1 {
			b.turns = append(b.turns, Turn{t, n})
		}
	}
	slices.SortFunc(b.turns, func(a, b Turn) int { return cmp.Compare(a.Trust, b.Trust) })
	return b
}

// basis is a roster as a vote sees it.
type basis struct {
	seated []TrustID // sorted
	turns  []Turn    // sorted
}

func (v Vote) at() basis { return basis{v.Basis, v.Turns} }

// count is how often a trust's seat has changed.
func (b basis) count(t TrustID) uint64 {
	if i, ok := slices.BinarySearchFunc(b.turns, t, func(a Turn, t TrustID) int { return cmp.Compare(a.Trust, t) }); ok {
		return b.turns[i].N
	}
	if contains(b.seated, t) {
		return 1
	}
	return 0
}

// all calls fn for everybody whose seat has ever changed.
func (b basis) all(fn func(TrustID, uint64) bool) bool {
	for _, t := range b.turns {
		if !fn(t.Trust, t.N) {
			return false
		}
	}
	for _, t := range b.seated {
		if n := b.count(t); n == 1 && !fn(t, n) {
			return false
		}
	}
	return true
}

// size is how many changes of seats it rests on: of a basis that another rests on it is less.
func (b basis) size() (n uint64) {
	b.all(func(_ TrustID, c uint64) bool { n += c; return true })
	return n
}

// within says whether all that b knows of is known in o.
func (b basis) within(o basis) bool {
	return b.all(func(t TrustID, n uint64) bool { return o.count(t) >= n })
}

func (b basis) equal(o basis) bool {
	return slices.Equal(b.seated, o.seated) && slices.Equal(b.turns, o.turns)
}

func (b basis) key() string {
	var s strings.Builder
	for _, t := range b.seated {
		s.WriteString(string(t) + " ")
	}
	for _, t := range b.turns {
		fmt.Fprintf(&s, "%s=%d ", t.Trust, t.N)
	}
	return s.String()
}

// EvalRoster computes the roster of region from votes and the node certificates known beside the cards. It depends on
// nothing else: not on the order of its arguments, on repetition, or on time.
//
// The rules:
//
//  1. The founding vote is the one whose hash is region. Its author is the founder.
//  2. A basis says of each trust how often its seat has changed (Turn); odd: it is seated. The basis is legitimate when
//     each of these changes, but the founder's first, was decided on a legitimate basis that is within it: one that says of no trust more,
//     and of that trust one less.
//  3. A trust that is not seated is admitted on a legitimate basis when a majority of those seated voted, on it, for the same card;
//     one that is seated is expelled when a majority voted, on it, to expel it, whatever the card.
//  4. A vote counts when it is signed by the key under which its author was admitted to its basis, and its author's
//     serials up to it are all there, and it is not void. Void are: two different votes at one serial, both; a vote whose basis
//     lacks a change of a seat that was in a basis of an earlier vote of its author, or that its author had decided alone
//     (the founder's first admission); and a vote to expel whose author has an earlier one on the same basis to expel another. So nobody
//     goes back to an older roster to find a majority there, and on one basis at most one trust is expelled.
//  5. The roster is those whose seat has changed an odd number of times, by the furthest decision. A trust admitted under two cards
//     keeps its seat but is disputed.
//  6. A node is let in when a member's key certifies it and has not revoked it.
//
// Signatures, voidness and serials depend on one key's votes alone, and rules 2 and 3 look only at strictly smaller bases,
// so one pass over the bases by size decides everything.
func EvalRoster(region RegionID, votes []Vote, certs []NodeCert, revoked ...Revocation) Roster {
	return evalRoster(region, votes, certs, revoked, signatures{})
}

// signatures remembers which signatures were checked, and with what result.
type signatures map[[32]byte]bool

// maxSignatures bounds what is remembered: then all is forgotten, and checked again.
const maxSignatures = 1 << 16

func (s signatures) once(k [32]byte, check func() bool) bool {
	ok, done := s[k]
	if !done {
		if len(s) >= maxSignatures {
			clear(s)
		}
		ok = check()
		s[k] = ok
	}
	return ok
}

func (s signatures) vote(v Vote, key ed25519.PublicKey) bool {
	h := v.Hash()
	return s.once(sha256.Sum256(slices.Concat([]byte("vote"), h[:], key, v.Sig)), func() bool { return v.verify(key) })
}

func (s signatures) card(c Card) bool {
	return s.once(sha256.Sum256(append([]byte("card"), encode(c)...)), func() bool { return c.Verify() == nil })
}

func (s signatures) revocation(v Revocation) bool {
	return s.once(sha256.Sum256(append([]byte("revocation"), encode(v)...)), func() bool { return v.Verify() == nil })
}

func (s signatures) cert(c NodeCert, key ed25519.PublicKey) bool {
	return s.once(sha256.Sum256(slices.Concat([]byte("cert"), key, encode(c))), func() bool { return c.Verify(key) == nil })
}

// evalRoster is EvalRoster with a memory of signatures.
func evalRoster(region RegionID, votes []Vote, certs []NodeCert, revoked []Revocation, checked signatures) Roster {
	e := election{region: region, signatures: checked, by: map[TrustID][]Vote{}, keys: map[string]*voter{}}
	if !e.open(votes) {
		return Roster{Region: region}
	}
	e.run()
	lenient := election{region: region, signatures: checked, by: e.by, founding: e.founding, keys: map[string]*voter{}, lenient: true}
	lenient.run()
	r := e.roster(certs, revoked, lenient.turns)
	for t, n := range lenient.turns {
		if n%2 == 1 && e.turns[t]%2 == 0 {
			r.Unseated = append(r.Unseated, t)
		}
	}
	slices.Sort(r.Unseated)
	return r
}

type election struct {
	signatures
	region   RegionID
	lenient  bool // two votes at one serial both count
	founding Vote
	by       map[TrustID][]Vote // well-formed votes of the region, by who they say their author is
	keys     map[string]*voter
	admitted map[change]map[[32]byte]*admission
	expelled map[change][]basis
	turns    map[TrustID]uint64 // the furthest change of each seat
	counted  map[[32]byte]Vote
}

// change is the n-th change of a trust's seat.
type change struct {
	trust TrustID
	n     uint64
}

// admission is a card's way onto the roster.
type admission struct {
	card  Card
	bases []basis
}

// voter is one key's votes.
type voter struct {
	void map[[32]byte]string // why a vote does not count
	hash map[[32]byte]bool   // well signed
	next uint64
	all  []Vote
}

// open sorts the votes, so that of two signatures of one vote the same is kept whatever the order they came in.
func (e *election) open(votes []Vote) bool {
	votes = slices.Clone(votes)
	slices.SortFunc(votes, func(a, b Vote) int { return bytes.Compare(a.Encode(), b.Encode()) })
	found := false
	for _, v := range votes {
		switch {
		case v.form() != nil || v.about() && !e.card(v.Card):
		case v.Op == OpFound:
			if !found && v.Hash() == e.region && e.vote(v, v.Card.TrustKey) {
				e.founding, found = v, true
			}
		case v.Region == e.region:
			e.by[v.By] = append(e.by[v.By], v)
		}
	}
	return found
}

func (e *election) run() {
	e.admitted, e.expelled = map[change]map[[32]byte]*admission{}, map[change][]basis{}
	e.turns = map[TrustID]uint64{e.founder(): 1}
	e.counted = map[[32]byte]Vote{e.founding.Hash(): e.founding}
	type cast struct {
		basis
		size  uint64
		key   string
		votes []Vote
	}
	onBasis := map[string]*cast{}
	var bases []*cast
	for _, vs := range e.by {
		for _, v := range vs {
			if v.Op != OpAdmit && v.Op != OpExpel {
				continue
			}
			k := v.at().key()
			if onBasis[k] == nil {
				onBasis[k] = &cast{basis: v.at(), size: v.at().size(), key: k}
				bases = append(bases, onBasis[k])
			}
			onBasis[k].votes = append(onBasis[k].votes, v)
		}
	}
	slices.SortFunc(bases, func(a, b *cast) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.key, b.key)) })
	for _, b := range bases {
		if e.legitimate(b.basis) {
			e.count(b.basis, b.votes)
		}
	}
}

func (e *election) founder() TrustID { return e.founding.By }

func (e *election) legitimate(b basis) bool {
	if b.count(e.founder()) == 0 {
		return false
	}
	return b.all(func(t TrustID, n uint64) bool {
		if n%2 == 1 {
			return len(e.cardsBefore(t, b)) > 0
		}
		return slices.ContainsFunc(e.expelled[change{t, n}], func(o basis) bool { return o.within(b) })
	})
}

// cardsBefore lists the cards under which t got the seat that it has in a basis, on bases within it: strictly, for in those t has none.
func (e *election) cardsBefore(t TrustID, b basis) []Card {
	n := b.count(t)
	if t == e.founder() && n == 1 {
		return []Card{e.founding.Card}
	}
	var out []Card
	for _, a := range e.admitted[change{t, n}] {
		if slices.ContainsFunc(a.bases, func(o basis) bool { return o.within(b) }) {
			out = append(out, a.card)
		}
	}
	return out
}

func (e *election) count(b basis, votes []Vote) {
	type matter struct {
		expel bool
		trust TrustID
		card  [32]byte // of one to admit
	}
	seats := map[matter]map[TrustID]bool{}
	cards := map[matter]Card{}
	for _, v := range votes {
		for _, card := range e.cardsBefore(v.By, b) {
			w := e.voter(v.By, card.TrustKey)
			h := v.Hash()
			if !w.hash[h] || w.void[h] != "" || !e.vote(v, card.TrustKey) {
				continue
			}
			if _, ok := e.counted[h]; !ok {
				e.counted[h] = v
			}
			m := matter{expel: v.Op == OpExpel, trust: v.Card.Trust}
			if !m.expel {
				m.card = v.Card.Hash()
			}
			if seats[m] == nil {
				seats[m] = map[TrustID]bool{}
			}
			seats[m][v.By] = true
			cards[m] = newer(cards[m], v.Card)
		}
	}
	for m, by := range seats {
		if len(by) < majority(len(b.seated)) {
			continue
		}
		to := change{m.trust, b.count(m.trust) + 1}
		e.turns[to.trust] = max(e.turns[to.trust], to.n)
		if m.expel {
			e.expelled[to] = append(e.expelled[to], b)
			continue
		}
		if e.admitted[to] == nil {
			e.admitted[to] = map[[32]byte]*admission{}
		}
		a := e.admitted[to][m.card]
		if a == nil {
			a = &admission{card: cards[m]}
			e.admitted[to][m.card] = a
		}
		a.card = newer(a.card, cards[m])
		a.bases = append(a.bases, b)
	}
}

// voter sorts one key's votes into those that count and those that are void. It looks at nobody else's.
func (e *election) voter(t TrustID, key ed25519.PublicKey) *voter {
	id := string(t) + "\x00" + string(key)
	if w := e.keys[id]; w != nil {
		return w
	}
	w := &voter{void: map[[32]byte]string{}, hash: map[[32]byte]bool{}, next: 1}
	e.keys[id] = w
	serials := map[uint64][]Vote{}
	take := func(v Vote) {
		if h := v.Hash(); !w.hash[h] {
			w.hash[h] = true
			w.all = append(w.all, v)
			serials[v.Serial] = append(serials[v.Serial], v)
		}
	}
	if t == e.founder() && bytes.Equal(key, e.founding.Card.TrustKey) {
		take(e.founding)
	}
	for _, v := range e.by[t] {
		if e.vote(v, key) {
			take(v)
		}
	}
	slices.SortFunc(w.all, func(a, b Vote) int { return cmp.Compare(a.Serial, b.Serial) })
	for _, v := range w.all {
		w.next = max(w.next, v.Serial+1)
	}
	floor := map[TrustID]uint64{}
	expels := map[string]TrustID{} // by basis: whom it has voted to expel
	unbroken := uint64(0)          // serials 1 to this are all there
	for i := 0; i < len(w.all); {
		s := w.all[i].Serial
		same := serials[s]
		i += len(same)
		if s == unbroken+1 {
			unbroken = s
		}
		for _, v := range same {
			switch {
			case s != unbroken:
				w.void[v.Hash()] = fmt.Sprintf("its author's vote %d has not come yet", unbroken+1)
			case len(same) > 1 && !e.lenient:
				w.void[v.Hash()] = "its author signed another vote with the same serial: both are void, vote again"
			case !v.at().holds(floor) && v.Op != OpFound:
				w.void[v.Hash()] = "its basis goes back behind an earlier vote of its author"
			case v.Op == OpExpel && expels[v.at().key()] != "" && expels[v.at().key()] != v.Card.Trust:
				w.void[v.Hash()] = "its author has voted before to expel another, on the same roster"
			}
		}
		for _, v := range same {
			b := v.at()
			b.all(func(t TrustID, n uint64) bool { floor[t] = max(floor[t], n); return true })
			if v.Op == OpAdmit && len(v.Basis) == 1 {
				floor[v.Card.Trust] = max(floor[v.Card.Trust], b.count(v.Card.Trust)+1)
			}
			if v.Op == OpExpel && len(same) == 1 && w.void[v.Hash()] == "" {
				expels[b.key()] = v.Card.Trust
			}
		}
	}
	return w
}

func (e *election) roster(certs []NodeCert, revoked []Revocation, lenient map[TrustID]uint64) Roster {
	f := e.founding
	r := Roster{Region: e.region, Name: f.Name, next: map[TrustID]uint64{}, turns: e.turns, revoked: map[NodeID]Revocation{}}
	cardsOf := func(c change) (out []Card) {
		if c == (change{f.By, 1}) {
			out = append(out, f.Card)
		}
		for _, a := range e.admitted[c] {
			out = append(out, a.card)
		}
		slices.SortFunc(out, compareCards)
		return out
	}
	for t, n := range e.turns {
		for k := uint64(1); k <= n; k += 2 { // the roster rests on what was signed in earlier seats, too
			for _, c := range cardsOf(change{t, k}) {
				w := e.voter(t, c.TrustKey)
				if k == n {
					r.next[t] = max(r.next[t], w.next)
				}
				for _, v := range w.all {
					r.signed = append(r.signed, v)
					if why := w.void[v.Hash()]; why != "" && n%2 == 1 {
						r.Faults = append(r.Faults, Fault{By: t, Serial: v.Serial, Why: why})
					}
				}
			}
		}
		if n%2 == 0 {
			r.Expelled = append(r.Expelled, t)
			continue
		}
		cards := cardsOf(change{t, n})
		m := Member{Trust: t, Name: cards[0].Name, TrustKey: cards[0].TrustKey, Card: cards[0], Founder: t == f.By, Suspended: lenient[t] > n}
		if m.Founder && n == 1 {
			m.Card = f.Card
		}
		// Another name for the same key is no dispute.
		m.Disputed = slices.ContainsFunc(cards, func(c Card) bool { return !bytes.Equal(c.TrustKey, m.TrustKey) })
		r.Members = append(r.Members, m)
	}
	slices.Sort(r.Expelled)
	slices.SortFunc(r.Members, func(a, b Member) int { return cmp.Compare(a.Trust, b.Trust) })
	slices.SortFunc(r.Faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Serial, b.Serial), cmp.Compare(a.Why, b.Why))
	})
	r.Faults = slices.Compact(r.Faults)
	for _, v := range e.counted {
		r.counted = append(r.counted, v)
	}
	slices.SortFunc(r.counted, compareVotes)
	slices.SortFunc(r.signed, compareVotes)
	r.signed = slices.CompactFunc(r.signed, func(a, b Vote) bool { return a.Hash() == b.Hash() })
	e.placeNodes(&r, certs, revoked)
	candidates := map[[32]byte]Card{}
	expulsions := map[TrustID]bool{}
	for _, v := range r.counted {
		t := v.Card.Trust
		switch _, member := r.Member(t); {
		case v.Op == OpAdmit && !member && v.at().count(t) == r.turns[t]:
			candidates[v.Card.Hash()] = newer(candidates[v.Card.Hash()], v.Card)
		case v.Op == OpExpel && member && v.at().count(t) == r.turns[t]:
			if _, still := r.Member(v.By); still { // what only those who are out themselves have voted is no news
				expulsions[t] = true
			}
		}
	}
	for t := range expulsions {
		x := Expulsion{Trust: t}
		x.Have, x.Need, x.By = r.StandingOfExpulsion(t)
		r.Expulsions = append(r.Expulsions, x)
	}
	slices.SortFunc(r.Expulsions, func(a, b Expulsion) int { return cmp.Compare(a.Trust, b.Trust) })
	for h, card := range candidates {
		c := Candidate{Card: card}
		c.Have, c.Need, c.By = r.Standing(h)
		r.Candidates = append(r.Candidates, c)
	}
	slices.SortFunc(r.Candidates, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.Card.Trust, b.Card.Trust), compareCards(a.Card, b.Card))
	})
	return r
}

// placeNodes finds the nodes members certify: those of cards, and those of certs. A node claimed by two trusts is of
// neither; its own key signed both certificates, so it is no innocent's node.
func (e *election) placeNodes(r *Roster, certs []NodeCert, revoked []Revocation) {
	for _, v := range revoked {
		m, ok := r.Member(v.Trust)
		if ok && v.Region == e.region && !m.Disputed && bytes.Equal(m.TrustKey, v.TrustKey) && e.revocation(v) {
			if have, ok := r.revoked[v.Node]; !ok || v.Supersedes(have) {
				r.revoked[v.Node] = v
			}
		}
	}
	for n := range r.revoked {
		r.Revoked = append(r.Revoked, n)
	}
	slices.SortFunc(r.Revoked, NodeID.Compare)
	addrs := map[NodeID][]string{}
	certs = slices.Clone(certs)
	certs = append(certs, e.founding.Card.NodeCert)
	addrs[e.founding.Card.NodeCert.Node] = e.founding.Card.Addrs
	for _, v := range r.counted {
		certs = append(certs, v.Card.NodeCert)
		if m, ok := r.Member(v.Card.Trust); ok && bytes.Equal(m.TrustKey, v.Card.TrustKey) {
			if n := v.Card.NodeCert.Node; len(addrs[n]) == 0 {
				addrs[n] = v.Card.Addrs
			}
		}
	}
	slices.SortFunc(certs, func(a, b NodeCert) int {
		return cmp.Or(cmp.Compare(a.Trust, b.Trust), cmp.Compare(b.Serial, a.Serial), a.Node.Compare(b.Node), bytes.Compare(a.Sig, b.Sig))
	})
	placed := map[NodeID]rosterNode{}
	twice := map[NodeID]bool{}
	count := map[TrustID]int{}
	for _, c := range certs {
		m, ok := r.Member(c.Trust)
		if !ok || m.Disputed || m.Suspended || r.revoked[c.Node].Trust == c.Trust {
			continue
		}
		if p, ok := placed[c.Node]; ok {
			if p.trust != c.Trust && !twice[c.Node] && e.cert(c, m.TrustKey) {
				twice[c.Node] = true
				r.Faults = append(r.Faults, Fault{By: c.Trust, Why: fmt.Sprintf("node %s is certified by %s too, so it is let in for neither", c.Node, p.trust)})
			}
			continue
		}
		if count[c.Trust] >= MaxNodes || !e.cert(c, m.TrustKey) {
			continue
		}
		count[c.Trust]++
		placed[c.Node] = rosterNode{id: c.Node, trust: c.Trust, cert: c, addrs: addrs[c.Node]}
	}
	for id, n := range placed {
		if !twice[id] {
			r.nodes = append(r.nodes, n)
		}
	}
	slices.SortFunc(r.nodes, func(a, b rosterNode) int { return a.id.Compare(b.id) })
}

// newer chooses between two versions of a card: by certificate, else by any fixed order.
func newer(a, b Card) Card {
	if a.Trust == "" || compareCards(b, a) < 0 {
		return b
	}
	return a
}

func compareCards(a, b Card) int {
	return cmp.Or(cmp.Compare(b.NodeCert.Serial, a.NodeCert.Serial), bytes.Compare(encode(a), encode(b)))
}

func compareVotes(a, b Vote) int {
	ha, hb := a.Hash(), b.Hash()
	return cmp.Or(cmp.Compare(a.By, b.By), cmp.Compare(a.Serial, b.Serial), bytes.Compare(ha[:], hb[:]))
}

func contains(sorted []TrustID, t TrustID) bool {
	_, ok := slices.BinarySearch(sorted, t)
	return ok
}

// holds says whether a basis knows of all that floor does.
func (b basis) holds(floor map[TrustID]uint64) bool {
	for t, n := range floor {
		if b.count(t) < n {
			return false
		}
	}
	return true
}
