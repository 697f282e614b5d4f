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
)

// Limits on a region.
const (
	MaxMembers = 128     // trusts: those that admit each other cast about 4096 votes
	MaxNodes   = 64      // nodes of a trust
	MaxSerial  = 1 << 16 // votes of a trust
	maxVote    = 32 << 10
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

// check says whether the vote has the form of a vote, of whatever operation, and its card holds.
func (v Vote) check() error {
	if err := v.form(); err != nil {
		return err
	}
	if v.Op != OpFound && v.Op != OpAdmit {
		return nil
	}
	return v.Card.Verify()
}

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
	}
	for i, t := range v.Basis {
		if !t.Valid() {
			return badTrust
		}
		if i > 0 && v.Basis[i-1] >= t {
			return malformed("basis is not sorted, each trust once")
		}
	}
	switch v.Op {
	case OpFound:
		if v.By != v.Card.Trust || len(v.Basis) > 0 || v.Serial != 1 || !v.Region.IsZero() || v.Name == "" {
			return malformed("a founding vote is its author's first, of its own card, names the region, and rests on nothing")
		}
	case OpAdmit:
		if v.Region.IsZero() || v.Name != "" || !contains(v.Basis, v.By) || contains(v.Basis, v.Card.Trust) {
			return malformed("a vote to admit names a region, and its basis holds its author but not whom it admits")
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
	hash, basis := card.Hash(), roster.basis()
	for _, v := range roster.counted {
		if v.By == by && v.Card.Hash() == hash && slices.Equal(v.Basis, basis) {
			return v, nil
		}
	}
	if next := roster.NextSerial(by); serial != next {
		return refuse(fmt.Sprintf("serial %d is not the next of %s, which is %d", serial, by, next))
	}
	return Vote{Region: roster.Region, Op: OpAdmit, Card: card, Basis: basis, By: by, Serial: serial}.sign(trustKey)
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

	// Unseated are trusts that would be members if votes voided by a second vote under the same serial still counted. None of
	// their nodes is let in, but an answer that lacks their word must say so.
	Unseated []TrustID

	nodes   []rosterNode // sorted by ID
	counted []Vote       // sorted by author and serial
	signed  []Vote       // by members, void ones included; sorted by author and serial
	next    map[TrustID]uint64
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
	perBasis := map[string][]TrustID{}
	size := map[string]int{}
	for _, v := range r.counted {
		if v.Op == OpAdmit && v.Card.Hash() == cardHash {
			k := basisKey(v.Basis)
			perBasis[k], size[k] = append(perBasis[k], v.By), len(v.Basis)
		}
	}
	have, need, best := 0, r.Quorum(), ""
	for k, voters := range perBasis {
		h, n := len(voters), majority(size[k])
		if d := cmp.Or(cmp.Compare(need-have, n-h), cmp.Compare(size[k], size[best]), cmp.Compare(best, k)); by == nil || d > 0 {
			have, need, by, best = h, n, voters, k
		}
	}
	slices.Sort(by)
	return have, need, by
}

// NextSerial is the serial of t's next vote, as far as the votes known tell.
func (r Roster) NextSerial(t TrustID) uint64 { return max(r.next[t], 1) }

func (r Roster) basis() []TrustID {
	out := make([]TrustID, len(r.Members))
	for i, m := range r.Members {
		out[i] = m.Trust
	}
	return out
}

// EvalRoster computes the roster of region from votes and the node certificates known beside the cards. It depends on
// nothing else: not on the order of its arguments, on repetition, or on time.
//
// The rules:
//
//  1. The founding vote is the one whose hash is region. Its author is the founder.
//  2. A basis is legitimate when the founder is in it and every other trust in it has been admitted on a legitimate
//     basis that is a strict subset of it.
//  3. A trust is admitted on a legitimate basis when a majority of the basis voted, on it, for the same card.
//  4. A vote counts when it is signed by the key under which its author was admitted to its basis, and its author's
//     serials up to it are all there, and it is not void. Void are: two different votes at one serial, both; a vote whose basis
//     lacks a trust that was in a basis of an earlier vote of its author, or that its author had admitted alone
//     (the founder's first admission). So nobody goes back to a smaller roster to find a majority there.
//  5. The roster is the founder and all admitted. A trust admitted under two cards keeps its seat but is disputed.
//
// Signatures, voidness and serials depend on one key's votes alone, and rules 2 and 3 look only at strictly smaller bases,
// so one pass over the bases by size decides everything.
func EvalRoster(region RegionID, votes []Vote, certs []NodeCert) Roster {
	return evalRoster(region, votes, certs, signatures{})
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

func (s signatures) cert(c NodeCert, key ed25519.PublicKey) bool {
	return s.once(sha256.Sum256(slices.Concat([]byte("cert"), key, encode(c))), func() bool { return c.Verify(key) == nil })
}

// evalRoster is EvalRoster with a memory of signatures.
func evalRoster(region RegionID, votes []Vote, certs []NodeCert, checked signatures) Roster {
	e := election{region: region, signatures: checked, by: map[TrustID][]Vote{}, keys: map[string]*voter{}}
	if !e.open(votes) {
		return Roster{Region: region}
	}
	e.run()
	r := e.roster(certs)
	lenient := election{region: region, signatures: checked, by: e.by, founding: e.founding, keys: map[string]*voter{}, lenient: true}
	lenient.run()
	for t := range lenient.admitted {
		if _, ok := r.Member(t); !ok {
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
	admitted map[TrustID]map[[32]byte]*admission
	counted  map[[32]byte]Vote
}

// admission is a card's way onto the roster.
type admission struct {
	card  Card
	bases [][]TrustID
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
		case v.form() != nil || (v.Op == OpFound || v.Op == OpAdmit) && !e.card(v.Card):
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
	e.admitted = map[TrustID]map[[32]byte]*admission{}
	e.counted = map[[32]byte]Vote{e.founding.Hash(): e.founding}
	onBasis := map[string][]Vote{}
	var bases [][]TrustID
	for _, vs := range e.by {
		for _, v := range vs {
			if v.Op != OpAdmit {
				continue
			}
			k := basisKey(v.Basis)
			if onBasis[k] == nil {
				bases = append(bases, v.Basis)
			}
			onBasis[k] = append(onBasis[k], v)
		}
	}
	slices.SortFunc(bases, func(a, b []TrustID) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), slices.Compare(a, b))
	})
	for _, b := range bases {
		if e.legitimate(b) {
			e.count(b, onBasis[basisKey(b)])
		}
	}
}

func (e *election) founder() TrustID { return e.founding.By }

func (e *election) legitimate(basis []TrustID) bool {
	if !contains(basis, e.founder()) {
		return false
	}
	for _, t := range basis {
		if t != e.founder() && len(e.cardsBefore(t, basis)) == 0 {
			return false
		}
	}
	return true
}

// cardsBefore lists the cards under which t was admitted on subsets of basis: strict ones, for t is in none that admitted it.
func (e *election) cardsBefore(t TrustID, basis []TrustID) []Card {
	if t == e.founder() {
		return []Card{e.founding.Card}
	}
	var out []Card
	for _, a := range e.admitted[t] {
		for _, b := range a.bases {
			if subset(b, basis) {
				out = append(out, a.card)
				break
			}
		}
	}
	return out
}

func (e *election) count(basis []TrustID, votes []Vote) {
	seats := map[[32]byte]map[TrustID]bool{}
	cards := map[[32]byte]Card{}
	for _, v := range votes {
		for _, card := range e.cardsBefore(v.By, basis) {
			w := e.voter(v.By, card.TrustKey)
			h := v.Hash()
			if !w.hash[h] || w.void[h] != "" || !e.vote(v, card.TrustKey) {
				continue
			}
			if _, ok := e.counted[h]; !ok {
				e.counted[h] = v
			}
			c := v.Card.Hash()
			if seats[c] == nil {
				seats[c] = map[TrustID]bool{}
			}
			seats[c][v.By] = true
			cards[c] = newer(cards[c], v.Card)
		}
	}
	for c, by := range seats {
		if len(by) < majority(len(basis)) {
			continue
		}
		t := cards[c].Trust
		if e.admitted[t] == nil {
			e.admitted[t] = map[[32]byte]*admission{}
		}
		a := e.admitted[t][c]
		if a == nil {
			a = &admission{card: cards[c]}
			e.admitted[t][c] = a
		}
		a.card = newer(a.card, cards[c])
		a.bases = append(a.bases, basis)
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
	floor := map[TrustID]bool{}
	unbroken := uint64(0) // serials 1 to this are all there
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
			case !holds(v.Basis, floor) && v.Op != OpFound:
				w.void[v.Hash()] = "its basis goes back behind an earlier vote of its author"
			}
		}
		for _, v := range same {
			for _, m := range v.Basis {
				floor[m] = true
			}
			if v.Op == OpAdmit && len(v.Basis) == 1 {
				floor[v.Card.Trust] = true
			}
		}
	}
	return w
}

func (e *election) roster(certs []NodeCert) Roster {
	f := e.founding
	r := Roster{Region: e.region, Name: f.Name, next: map[TrustID]uint64{}}
	keys := map[TrustID][]Card{f.By: {f.Card}}
	for t, cards := range e.admitted {
		for _, a := range cards {
			keys[t] = append(keys[t], a.card)
		}
		slices.SortFunc(keys[t], compareCards)
	}
	for t, cards := range keys {
		m := Member{Trust: t, Name: cards[0].Name, TrustKey: cards[0].TrustKey, Card: cards[0], Founder: t == f.By}
		if m.Founder {
			m.Card = f.Card
		}
		// Another name for the same key is no dispute.
		m.Disputed = slices.ContainsFunc(cards, func(c Card) bool { return !bytes.Equal(c.TrustKey, m.TrustKey) })
		r.Members = append(r.Members, m)
		for _, c := range cards {
			w := e.voter(t, c.TrustKey)
			r.next[t] = max(r.next[t], w.next)
			for _, v := range w.all {
				r.signed = append(r.signed, v)
				if why := w.void[v.Hash()]; why != "" {
					r.Faults = append(r.Faults, Fault{By: t, Serial: v.Serial, Why: why})
				}
			}
		}
	}
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
	e.placeNodes(&r, certs)
	candidates := map[[32]byte]Card{}
	for _, v := range r.counted {
		if _, ok := r.Member(v.Card.Trust); !ok {
			candidates[v.Card.Hash()] = newer(candidates[v.Card.Hash()], v.Card)
		}
	}
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
func (e *election) placeNodes(r *Roster, certs []NodeCert) {
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
		if !ok || m.Disputed {
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

func basisKey(b []TrustID) string {
	s := make([]string, len(b))
	for i, t := range b {
		s[i] = string(t)
	}
	return strings.Join(s, " ")
}

func contains(sorted []TrustID, t TrustID) bool {
	_, ok := slices.BinarySearch(sorted, t)
	return ok
}

// subset says whether every trust of a is in b; both are sorted.
func subset(a, b []TrustID) bool {
	for _, t := range a {
		if !contains(b, t) {
			return false
		}
	}
	return true
}

func holds(basis []TrustID, floor map[TrustID]bool) bool {
	n := 0
	for _, t := range basis {
		if floor[t] {
			n++
		}
	}
	return n == len(floor)
}
