package index

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestCardText(t *testing.T) {
	c := cardOf("RAA")
	s := c.String()
	if !strings.HasPrefix(s, "priormesh-card-1:") {
		t.Fatal(s[:30])
	}
	// As it may look after a mail program had it.
	for _, text := range []string{s, "  " + s + "\r\n", s[:40] + "\n" + s[40:90] + "\n\t" + s[90:]} {
		got, err := ParseCard(text)
		if err != nil || !reflect.DeepEqual(got, c) {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	if f := c.Fingerprint(); len(f) != 19 || f == cardOf("RBB").Fingerprint() {
		t.Fatal(f)
	}
}

func TestCardRefusals(t *testing.T) {
	s := cardOf("RAA").String()
	inv := Invitation{Region: RegionID{1}, RegionName: "x"}.String()
	changed := func(f func(c *Card)) string {
		c := cardOf("RAA")
		f(&c)
		return c.String()
	}
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                {"", "begins with priormesh-card-1:"},
		"something else":         {"hello", "begins with priormesh-card-1:"},
		"a web address":          {"https://example.org", "begins with priormesh-card-1:"},
		"an invitation":          {inv, "this is an invitation, not a card"},
		"a letter missing":       {s[:len(s)-1], "copy the whole text again"},
		"half of it":             {s[:len(s)/2], "copy the whole text again"},
		"a letter changed":       {strings.Replace(s, s[60:61], string(s[60]^3), 1), "copy the whole text again"},
		"another version":        {strings.Replace(s, "-1:", "-2:", 1), "another version"},
		"huge":                   {s + strings.Repeat("A", 3*MaxCard), "over the limit"},
		"another trust's cert":   {changed(func(c *Card) { c.NodeCert = cardOf("RBB").NodeCert }), "another trust"},
		"another key":            {changed(func(c *Card) { c.TrustKey = trustKeyOf("RBB").Public().(ed25519.PublicKey) }), "does not verify"},
		"lower-case trust":       {changed(func(c *Card) { c.Trust = "raa" }), "ODS code"},
		"control character":      {changed(func(c *Card) { c.Name = "a\nb" }), "control characters"},
		"long name":              {changed(func(c *Card) { c.Name = strings.Repeat("x", MaxName+1) }), "over 128 bytes"},
		"too many addresses":     {changed(func(c *Card) { c.Addrs = make([]string, MaxAddrs+1) }), "over the limit"},
		"long address":           {changed(func(c *Card) { c.Addrs = []string{strings.Repeat("x", MaxAddr+1)} }), "over the limit"},
		"no signature":           {changed(func(c *Card) { c.NodeCert.Sig = nil }), "wrong length"},
		"no node signature":      {changed(func(c *Card) { c.NodeCert.NodeSig = make([]byte, 64) }), "does not verify"},
		"another node":           {changed(func(c *Card) { c.NodeCert.Node = nodeOf("RBB") }), "does not verify"},
		"another serial":         {changed(func(c *Card) { c.NodeCert.Serial++ }), "does not verify"},
		"garbage well wrapped":   {writeText("card", []byte("garbage")), "not the CBOR"},
		"card with another form": {writeText("card", append(encode(cardOf("RAA")), 0)), "not the CBOR"},
		"unknown field":          {writeText("card", encode(map[int]any{1: "RAA", 77: "x"})), "not the CBOR"},
	} {
		if _, err := ParseCard(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := ParseInvitation(s); err == nil || !strings.Contains(err.Error(), "this is a card, not an invitation") {
		t.Error(err)
	}
}

// A certificate needs both keys: a trust cannot claim a node that does not want it, nor a node a trust.
func TestCertificateNeedsBothKeys(t *testing.T) {
	victim := cardOf("RAA").NodeCert
	evil := trustKeyOf("RXX")
	pub := evil.Public().(ed25519.PublicKey)
	c := NodeCert{Trust: "RXX", Node: victim.Node, Serial: 1, NodeSig: victim.NodeSig}
	c.Sig = ed25519.Sign(evil, c.signed("trust", pub))
	var forged *ForgedError
	if err := c.Verify(pub); !errors.As(err, &forged) {
		t.Error(err)
	}
	// Nor does the node's word for its trust pass for the trust's own.
	c = NodeCert{Trust: "RAA", Node: victim.Node, Serial: 1, Sig: victim.NodeSig, NodeSig: victim.NodeSig}
	if err := c.Verify(cardOf("RAA").TrustKey); !errors.As(err, &forged) {
		t.Error(err)
	}
}

func TestInvitation(t *testing.T) {
	r := foundRegion("RAA", "RBB", "RCC")
	inv := Invitation{Region: r.id, RegionName: "Test region", Votes: r.votes,
		Nodes: []NodeFact{{Cert: cardOf("RAA").NodeCert, Addrs: []string{"/ip4/10.0.0.1/tcp/1"}}}}
	got, err := ParseInvitation(inv.String())
	if err != nil || !reflect.DeepEqual(got, inv) {
		t.Fatalf("%+v, %v", got, err)
	}
	roster, err := VerifyInvitation(got, cardOf("RCC"))
	if err != nil || len(roster.Members) != 3 {
		t.Fatalf("%+v, %v", roster, err)
	}
	pending := foundRegion("RAA", "RBB")
	v, err := Admit(trustKeyOf("RAA"), pending.roster(), cardOf("RCC"), pending.roster().NextSerial("RAA"))
	if err != nil {
		t.Fatal(err)
	}
	half := append(append([]Vote(nil), pending.votes...), v)
	for name, c := range map[string]struct {
		inv  Invitation
		card Card
		want string
	}{
		"another trust":         {inv, cardOf("RDD"), "0 of the 2 votes"},
		"a vote short":          {Invitation{Region: pending.id, RegionName: "Test region", Votes: half}, cardOf("RCC"), "1 of the 2 votes"},
		"another key":           {inv, cardWith("RCC", testKey("other"), testKey("other node")), "another key"},
		"no founding vote":      {Invitation{Region: r.id, RegionName: "Test region", Votes: r.votes[1:]}, cardOf("RCC"), "founding vote"},
		"another region":        {Invitation{Region: RegionID{1}, RegionName: "Test region", Votes: r.votes}, cardOf("RCC"), "founding vote"},
		"another region's name": {Invitation{Region: r.id, RegionName: "Other region", Votes: r.votes}, cardOf("RCC"), "the name of its region"},
		"nothing":               {Invitation{}, cardOf("RCC"), "founding vote"},
	} {
		var fit *InvitationError
		if _, err := VerifyInvitation(c.inv, c.card); !errors.As(err, &fit) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	for name, text := range map[string]string{
		"bad vote":     writeText("invitation", deflate(encode(wireInvitation{Region: r.id, Name: "x", Votes: [][]byte{{1}}}))),
		"bad node":     writeText("invitation", deflate(encode(wireInvitation{Region: r.id, Name: "x", Nodes: [][]byte{{1}}}))),
		"bad name":     writeText("invitation", deflate(encode(wireInvitation{Region: r.id, Name: "x\x00"}))),
		"not deflated": writeText("invitation", encode(wireInvitation{Region: r.id, Name: "x"})),
		"a bomb":       writeText("invitation", deflate(make([]byte, MaxInvitation+1))),
		"truncated":    inv.String()[:300],
		"base64":       "priormesh-invitation-1:" + base64.StdEncoding.EncodeToString([]byte("////++++????")),
	} {
		if _, err := ParseInvitation(text); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}
