package synthetic

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A people is a part of the population with names of its own.
type people struct {
	share              float64
	family, women, men []string // frequent first
	tail               float64  // share of family names that are rare
	begin, middle, end []string // syllables of these
	doubled            float64  // share of double family names
}

func words(s string) []string { return strings.Fields(strings.ReplaceAll(s, "\n", " ")) }

// wide reads words in which _ stands for a space.
func wide(s string) []string {
	out := words(s)
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "_", " ")
	}
	return out
}

var peoples = []people{
	{
		share: 0.80, tail: 0.50, doubled: 0.025,
		family: wide(`Smith Jones Taylor Brown Williams Wilson Johnson Davies Robinson Wright Thompson Evans Walker White Roberts Green
			Hall Wood Jackson Clarke Thomas Harris Edwards Turner Hughes Lewis Cooper Hill Martin Ward Morris Moore Clark Harrison King Baker
			Morgan Allen James Scott Ellis Bennett Parker Phillips Watson Carter Bailey Cook Shaw Collins Richardson Young Bell Cox Miller
			Anderson Kelly Mitchell Price Richards Marshall Simpson Griffiths Adams Webb Mills Foster Rogers Chapman Gray Stevens Barker
			Murphy Knight Russell Butler Palmer Holmes Mason Hunt Powell Lloyd Murray Rose Dixon Fletcher Howard Gibson Reynolds Ross Fox
			Reid Graham Barnes Matthews Andrews Atkinson Pearce Ford Jenkins Spencer Armstrong Stone Hart Hudson Walsh Duncan Burton Lawrence
			Hunter Stewart Elliott Carr West Pearson Dawson Holland Perry Fisher Lane Cole Payne Gordon Dunn Bishop Riley Berry Bradley
			Watts Ryan Lowe Sutton Byrne Nicholson Hamilton Woods Kennedy Parsons Harvey Bates Hawkins Francis Newman Oliver Peters O'Brien
			O'Connor O'Neill O'Sullivan Doherty Gallagher McCarthy McDonald MacDonald McKenzie Campbell Cameron Fraser Robertson Paterson
			Ferguson Sinclair Douglas Burgess Hayes Coleman Warren Higgins Lambert Wallis Nash Booth Thorpe Saunders St_John Le_Fevre
			Fitzgerald Fitzpatrick De_Lacy Brontë Llewellyn Pritchard Bowen Vaughan`),
		women: words(`Margaret Susan Sarah Patricia Jean Christine Linda Julie Karen Jacqueline Elizabeth Helen Dorothy Joan Janet Jane
			Barbara Mary Claire Emma Nicola Joanne Lisa Samantha Rebecca Laura Gemma Sheila Pauline Carol Maureen Brenda Angela Sandra Lesley
			Deborah Diane Amanda Tracey Alison Katherine Rachel Charlotte Hannah Jessica Lauren Amy Chloë Sophie Olivia Emily Amelia Isla Ava
			Grace Lily Freya Florence Evie Poppy Ruth Eileen Joyce Irene Doreen Hilda Vera Edith Marjorie Phyllis Siân Zoë Renée Mary-Anne Anne
			Ann Frances Heather Wendy Gillian Sylvia Valerie Beryl Rosemary Kathleen Bethany Megan Ellie Holly Georgia Abigail`),
		men: words(`David John Paul Michael Peter Andrew Robert Stephen James Mark Christopher William Richard Ian Alan Brian Kevin Kenneth
			Anthony Keith Thomas George Simon Gary Matthew Daniel Jonathan Neil Martin Philip Nicholas Steven Colin Graham Raymond Derek Ronald
			Barry Roger Terence Geoffrey Dennis Roy Trevor Adam Benjamin Joshua Samuel Jack Harry Oliver Charlie Alfie Leo Noah Arthur Oscar
			Freddie Theo Henry Edward Charles Frank Ernest Albert Walter Harold Stanley Leonard Norman Frederick Douglas Gordon Stuart Darren
			Lee Jason Craig Ryan Liam Callum Connor Ethan Luke Nathan Jamie Scott Sean Seán Dylan Rhys Owen Gareth Huw Alexander Dominic`),
		begin: words(`Ash Black Brad Brom Bur Car Chat Clif Col Cran Dal Den Dray Elm Fair Farn Gar Gold Hal Ham Hather Hazel Hep Hol Ingle Kirk
			Lang Leigh Lind Mal Mar Mid Mor Nether New North Oak Oak Pen Pick Pres Rad Rams Red Ross Row Sher Shir Sil Stan Stock Sum Swin Thorn
			Trem Under Wake Wal War Wes Whit Win Wood Wor York`),
		middle: []string{"", "er", "ing", "en", "le", "s", "y", "or", "am", "in"},
		end: words(`ton ham ley field ford worth wood by well stone bury man more croft land ridge dale gate water wick bourne shaw tree side
			ward son house grave hurst combe brook way ker`),
	},
	{
		share: 0.095, tail: 0.35, doubled: 0.002,
		family: wide(`Patel Khan Singh Ahmed Hussain Ali Kaur Begum Shah Hussein Akhtar Mahmood Malik Iqbal Chowdhury Miah Rahman Islam Sharma
			Mohammed Mirza Bibi Gill Sandhu Chaudhry Qureshi Rashid Desai Mistry Joshi Shaikh Butt Aziz Rehman Uddin Bhatti Dhillon Das
			Abdul_Rahman Raj Nair Pillai D'Souza Fernandes Gupta Mehta`),
		women: words(`Fatima Aisha Nasreen Shazia Priya Rukhsana Parveen Sunita Amina Zainab Maryam Yasmin Saima Nazia Harpreet Jasvinder
			Manjit Meena Anita Kavita Rehana Samina Farzana Khadija Hafsa Anjali Neha Pooja`),
		men: words(`Mohammed Muhammad Ahmed Ali Imran Abdul Asif Tariq Raj Sanjay Amit Harjit Gurpreet Balwinder Nadeem Faisal Shahid Zafar
			Usman Hamza Ibrahim Yusuf Rajesh Vijay Anil Sunil Omar Bilal`),
		begin:  words(`Bha Cha Dha Gan Gho Har Jai Kal Kum Lak Man Mukh Nag Pra Raj Ram San Sri Sub Tha Vas Ven Zam`),
		middle: []string{"", "ra", "ni", "ti", "ka", "ma", "de", "shi"},
		end:    words(`rjee nathan swamy waj dar wala kar pal want jit deep lal ram murthy gopal shan`),
	},
	{
		share: 0.055, tail: 0.45, doubled: 0.01,
		family: wide(`Nowak Kowalski Kowalska Wiśniewski Wiśniewska Wójcik Kamiński Lewandowski Zieliński Szymański Woźniak Dąbrowski Kozłowski
			Popescu Ionescu Popa Müller García Rodríguez Silva Santos Ferreira dos_Santos de_Souza van_der_Berg van_Dijk Rossi Petrov Ivanov
			Novák Horváth Nagy Łukasik Kaźmierczak Ölsen Björk`),
		women:  words(`Anna Maria Katarzyna Małgorzata Agnieszka Ewa Elena Ioana Joanna Magdalena Zofia Carmen Lucía Inês Chiara Irina Olga`),
		men:    words(`Piotr Krzysztof Andrzej Tomasz Paweł Łukasz Marek Andrei Ion José Manuel João Luca Marco Sergei Vladimir Jürgen`),
		begin:  words(`Kra Wal Stan Bor Mar Jan Pie Zaw Wro Sob Gór Pawl Mil Rad Sto Vas Dra Tom Kos`),
		middle: []string{"", "ko", "i", "cze", "e", "o", "ni"},
		end:    words(`wski wska wicz nik escu ević ova ski ska czyk iak ek ković`),
	},
	{
		share: 0.05, tail: 0.45, doubled: 0.01,
		family: wide(`Okafor Adeyemi Mensah Owusu Boateng Osei Nwosu Eze Okoro Adebayo Balogun Kamara Sesay Diallo Banda Moyo Ndlovu Chen Wang Li
			Zhang Wong Chan Lee Nguyen Tran Kim Park Santos Reyes Mohamed Hassan Abdi Omar Yusuf Warsame Al-Hassan Al-Amin Ben_Ali`),
		women: words(`Grace Blessing Esther Comfort Abena Akua Ngozi Chioma Fatou Mei Ling Xiu Thi Min-Ji Hodan Amal Halima Rosa`),
		men:   words(`Emmanuel Samuel Kwame Kofi Chidi Emeka Oluwaseun Tunde Wei Jian Minh Abdirahman Mohamed Ahmed Hassan Jun Jose`),
		begin: words(`Ade Olu Ako Nwa Oko Chi Ime Uche Ogu Abi Kwa Ansa Boa Asa Ewe Ida`), middle: []string{"", "ba", "ke", "la", "mi", "du", "nwa"},
		end: words(`yemi mola kunle tola chukwu wale rie nne ma ye ku sei nde bayo`),
	},
}

var (
	peopleWeights = weigh(len(peoples), func(i int) float64 { return peoples[i].share })
	familyWeights = make([]weights, len(peoples))
	womenWeights  = make([]weights, len(peoples))
	menWeights    = make([]weights, len(peoples))
	tailWeights   = make([]weights, len(peoples))
)

func init() {
	for i, p := range peoples {
		familyWeights[i] = zipf(len(p.family), 4, 0.65)
		womenWeights[i], menWeights[i] = zipf(len(p.women), 4, 0.7), zipf(len(p.men), 4, 0.7)
		tailWeights[i] = zipf(len(p.begin)*len(p.middle)*len(p.end), 30, 0.6)
	}
}

// chooseFamily draws a family name.
func (p *people) chooseFamily(d *draw, of int) string {
	name := func() string {
		if !d.chance(p.tail) {
			return p.family[familyWeights[of].choose(d)]
		}
		// Neighbours in frequency have nothing else in common.
		n := len(p.begin) * len(p.middle) * len(p.end)
		k := int(mix(uint64(tailWeights[of].choose(d))) % uint64(n))
		b, k := p.begin[k%len(p.begin)], k/len(p.begin)
		return b + p.middle[k%len(p.middle)] + p.end[k/len(p.middle)]
	}
	first := name()
	if d.chance(p.doubled) && !strings.ContainsAny(first, " -") {
		if second := name(); second != first && !strings.ContainsAny(second, " -") {
			return first + "-" + second
		}
	}
	return first
}

func (p *people) chooseGiven(d *draw, of int, sex string) string {
	if sex == "F" || sex != "M" && d.chance(0.5) {
		return p.women[womenWeights[of].choose(d)]
	}
	return p.men[menWeights[of].choose(d)]
}

// unaccented writes a name as a system that knows ASCII only does.
func unaccented(s string) string {
	plain := true
	for i := range len(s) {
		plain = plain && s[i] < 0x80
	}
	if plain {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Mn, r):
			return -1
		case r == 'ł':
			return 'l'
		case r == 'Ł':
			return 'L'
		}
		return r
	}, norm.NFD.String(s))
}

// misspelt swaps two neighbouring letters, or doubles one.
func misspelt(d *draw, s string) string {
	r := []rune(s)
	if len(r) < 4 {
		return s
	}
	i := 1 + d.n(len(r)-2)
	if r[i] == r[i+1] || d.chance(0.3) {
		return string(r[:i+1]) + string(r[i:])
	}
	r[i], r[i+1] = r[i+1], r[i]
	return string(r)
}
