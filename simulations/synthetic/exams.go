package synthetic

// An exam is one kind of examination.
type exam struct {
	weight     float64
	modalities []string
	part       string // Body Part Examined
	text       string // Study Description
	series     [2]int // fewest and most
	images     [2]int // in a series
	size       int    // bytes of one
	office     bool   // is not made at night
	sex        string // of whom, if not of both
}

func one(modality string) []string { return []string{modality} }

const (
	kB = 1000
	mB = 1000 * kB
)

// Weights are about percent of all, more where few patients are of the age and sex; projection radiography is half.
var exams = []exam{
	{10.5, one("DX"), "CHEST", "XR Chest", [2]int{2, 3}, [2]int{1, 2}, 9 * mB, false, ""},
	{1.8, one("CR"), "CHEST", "XR Chest mobile", [2]int{2, 2}, [2]int{1, 2}, 7 * mB, false, ""},
	{2.6, one("DX"), "KNEE", "XR Knee Both", [2]int{2, 5}, [2]int{1, 2}, 8 * mB, false, ""},
	{2.4, one("DX"), "PELVIS", "XR Pelvis", [2]int{2, 2}, [2]int{1, 1}, 9 * mB, false, ""},
	{2.3, one("DX"), "HIP", "XR Hip Lt", [2]int{2, 3}, [2]int{1, 2}, 8 * mB, false, ""},
	{2.3, one("DX"), "HAND", "XR Hand Rt", [2]int{2, 4}, [2]int{1, 1}, 6 * mB, false, ""},
	{2.2, one("DX"), "FOOT", "XR Foot Lt", [2]int{2, 4}, [2]int{1, 1}, 6 * mB, false, ""},
	{2.0, one("DX"), "ANKLE", "XR Ankle Rt", [2]int{2, 4}, [2]int{1, 1}, 6 * mB, false, ""},
	{2.0, one("DX"), "WRIST", "XR Wrist Lt", [2]int{2, 4}, [2]int{1, 1}, 6 * mB, false, ""},
	{1.9, one("DX"), "SHOULDER", "XR Shoulder Rt", [2]int{2, 4}, [2]int{1, 1}, 7 * mB, false, ""},
	{1.7, one("CR"), "ABDOMEN", "XR Abdomen", [2]int{2, 2}, [2]int{1, 2}, 8 * mB, false, ""},
	{1.7, one("DX"), "LSPINE", "XR Lumbar spine", [2]int{2, 4}, [2]int{1, 1}, 9 * mB, false, ""},
	{1.2, one("DX"), "CSPINE", "XR Cervical spine", [2]int{2, 4}, [2]int{1, 1}, 7 * mB, false, ""},
	{1.1, one("CR"), "ELBOW", "XR Elbow Lt", [2]int{2, 3}, [2]int{1, 1}, 6 * mB, false, ""},
	{1.0, one("DX"), "FINGER", "XR Finger(s) Rt", [2]int{2, 4}, [2]int{1, 1}, 5 * mB, false, ""},
	{1.0, one("CR"), "FEMUR", "XR Femur Rt", [2]int{2, 4}, [2]int{1, 1}, 8 * mB, false, ""},
	{1.0, one("DX"), "TIBIAFIBULA", "XR Tibia and fibula Lt", [2]int{2, 4}, [2]int{1, 1}, 7 * mB, false, ""},
	{0.9, one("DX"), "TSPINE", "XR Thoracic spine", [2]int{2, 3}, [2]int{1, 1}, 8 * mB, false, ""},
	{0.9, one("CR"), "TOE", "XR Toe(s) Lt", [2]int{2, 3}, [2]int{1, 1}, 5 * mB, false, ""},
	{0.7, one("CR"), "HUMERUS", "XR Humerus Rt", [2]int{2, 3}, [2]int{1, 1}, 7 * mB, false, ""},
	{0.6, one("DX"), "SKULL", "XR Orbits", [2]int{2, 2}, [2]int{1, 1}, 6 * mB, false, ""},
	{0.6, one("CR"), "CLAVICLE", "XR Clavicle Lt", [2]int{2, 2}, [2]int{1, 1}, 6 * mB, false, ""},
	{0.4, one("DX"), "JAW", "XR Dental pantomogram", [2]int{2, 2}, [2]int{1, 1}, 9 * mB, true, ""},
	{0.9, one("CR"), "", "XR Skeletal survey", [2]int{4, 18}, [2]int{1, 2}, 7 * mB, true, ""},

	{4.6, one("US"), "ABDOMEN", "US Abdomen", [2]int{2, 3}, [2]int{12, 60}, 900 * kB, false, ""},
	{3.2, one("US"), "PELVIS", "US Pelvis transvaginal", [2]int{2, 3}, [2]int{10, 50}, 900 * kB, true, "F"},
	{7.0, one("US"), "UTERUS", "US Obstetric growth", [2]int{2, 3}, [2]int{10, 60}, 900 * kB, true, "F"},
	{2.1, one("US"), "KIDNEY", "US Urinary tract", [2]int{2, 3}, [2]int{10, 40}, 900 * kB, false, ""},
	{1.4, one("US"), "NECK", "US Neck", [2]int{2, 2}, [2]int{8, 40}, 900 * kB, true, ""},
	{1.3, one("US"), "EXTREMITY", "US Doppler leg veins Rt", [2]int{2, 2}, [2]int{8, 40}, 900 * kB, false, ""},
	{1.2, one("US"), "BREAST", "US Breast Lt", [2]int{2, 2}, [2]int{6, 30}, 900 * kB, true, "F"},
	{1.0, one("US"), "SHOULDER", "US Shoulder Rt", [2]int{2, 2}, [2]int{8, 30}, 900 * kB, true, ""},
	{0.9, one("US"), "HEART", "Echocardiogram transthoracic", [2]int{2, 6}, [2]int{10, 50}, 3 * mB, false, ""},
	{0.7, one("US"), "SCROTUM", "US Testes", [2]int{2, 2}, [2]int{8, 30}, 900 * kB, false, "M"},
	{0.6, one("US"), "NECK", "US Doppler carotid", [2]int{2, 2}, [2]int{10, 40}, 900 * kB, true, ""},
	{0.6, one("US"), "HIP", "US Infant hips", [2]int{2, 2}, [2]int{4, 12}, 900 * kB, true, ""},

	{4.1, one("CT"), "HEAD", "CT Head", [2]int{2, 8}, [2]int{30, 250}, 530 * kB, false, ""},
	{2.6, one("CT"), "CHEST", "CT Thorax abdomen pelvis with contrast", [2]int{4, 12}, [2]int{60, 900}, 530 * kB, false, ""},
	{1.5, one("CT"), "ABDOMEN", "CT Abdomen and pelvis with contrast", [2]int{3, 10}, [2]int{60, 600}, 530 * kB, false, ""},
	{1.3, one("CT"), "CHEST", "CT Pulmonary angiogram", [2]int{3, 8}, [2]int{100, 500}, 530 * kB, false, ""},
	{0.9, one("CT"), "KIDNEY", "CT KUB", [2]int{3, 6}, [2]int{80, 500}, 530 * kB, false, ""},
	{0.8, one("CT"), "CHEST", "CT Thorax high resolution", [2]int{3, 8}, [2]int{60, 500}, 530 * kB, true, ""},
	{0.6, one("CT"), "CSPINE", "CT Cervical spine", [2]int{3, 8}, [2]int{80, 400}, 530 * kB, false, ""},
	{0.5, one("CT"), "COLON", "CT Colonography", [2]int{4, 10}, [2]int{300, 900}, 530 * kB, true, ""},
	{0.5, one("CT"), "HEART", "CT Coronary angiogram", [2]int{5, 18}, [2]int{100, 500}, 530 * kB, true, ""},
	{0.4, []string{"CT", "SR"}, "HEAD", "CT Angiogram intracranial and carotid", [2]int{4, 14}, [2]int{100, 700}, 530 * kB, false, ""},
	{0.3, one("CT"), "SINUS", "CT Sinuses", [2]int{2, 6}, [2]int{80, 300}, 530 * kB, true, ""},

	{2.1, one("MR"), "HEAD", "MRI Head", [2]int{5, 16}, [2]int{24, 200}, 300 * kB, false, ""},
	{1.9, one("MR"), "LSPINE", "MRI Lumbar spine", [2]int{4, 9}, [2]int{15, 60}, 400 * kB, true, ""},
	{1.3, one("MR"), "KNEE", "MRI Knee Rt", [2]int{5, 9}, [2]int{20, 60}, 400 * kB, true, ""},
	{0.8, one("MR"), "PROSTATE", "MRI Prostate multiparametric", [2]int{6, 20}, [2]int{20, 200}, 400 * kB, true, "M"},
	{0.6, one("MR"), "PELVIS", "MRI Pelvis", [2]int{5, 14}, [2]int{20, 120}, 400 * kB, true, ""},
	{0.6, one("MR"), "CSPINE", "MRI Cervical spine", [2]int{4, 9}, [2]int{15, 60}, 400 * kB, true, ""},
	{0.5, one("MR"), "ABDOMEN", "MRCP", [2]int{5, 18}, [2]int{20, 120}, 400 * kB, true, ""},
	{0.4, one("MR"), "SPINE", "MRI Whole spine", [2]int{5, 14}, [2]int{15, 60}, 400 * kB, false, ""},
	{0.4, one("MR"), "BREAST", "MRI Breast Both with contrast", [2]int{6, 18}, [2]int{80, 300}, 400 * kB, true, "F"},
	{0.3, one("MR"), "HEART", "MRI Cardiac", [2]int{10, 20}, [2]int{10, 120}, 300 * kB, true, ""},
	{0.4, one("MR"), "HEAD", "MRI Internal auditory meatus", [2]int{3, 7}, [2]int{20, 80}, 400 * kB, true, ""},

	{7.5, one("MG"), "BREAST", "MG Breast screening", [2]int{4, 6}, [2]int{1, 1}, 27 * mB, true, "F"},
	{1.4, one("MG"), "BREAST", "MG Mammogram Both", [2]int{4, 8}, [2]int{1, 1}, 27 * mB, true, "F"},
	{0.5, one("NM"), "", "NM Bone whole body", [2]int{2, 5}, [2]int{1, 4}, 600 * kB, true, ""},
	{0.2, one("NM"), "HEART", "NM Myocardial perfusion", [2]int{3, 10}, [2]int{1, 8}, 900 * kB, true, ""},
	{0.1, one("NM"), "KIDNEY", "NM Renogram MAG3", [2]int{2, 4}, [2]int{1, 3}, 2 * mB, true, ""},
	{0.4, []string{"CT", "PT"}, "", "PET CT FDG half body", [2]int{4, 9}, [2]int{200, 500}, 200 * kB, true, ""},
	{0.7, one("XA"), "HEART", "Coronary angiogram", [2]int{6, 20}, [2]int{1, 2}, 20 * mB, false, ""},
	{0.4, one("XA"), "LEG", "Angioplasty femoral Lt", [2]int{4, 18}, [2]int{1, 2}, 14 * mB, false, ""},
	{0.4, one("XA"), "", "Theatre screening", [2]int{2, 4}, [2]int{1, 8}, 2 * mB, false, ""},
	{0.5, one("RF"), "ESOPHAGUS", "Barium swallow", [2]int{2, 8}, [2]int{1, 20}, 2 * mB, true, ""},
	{0.2, one("RF"), "BLADDER", "Micturating cystogram", [2]int{2, 6}, [2]int{1, 20}, 2 * mB, true, ""},
	{0.4, one("OT"), "", "Outside films scanned", [2]int{2, 3}, [2]int{1, 10}, 4 * mB, true, ""},
	{0.4, one("IO"), "JAW", "Intra-oral radiographs", [2]int{2, 6}, [2]int{1, 2}, 1 * mB, true, ""},
	{0.2, []string{"DX", "OT"}, "BONE", "DEXA Hip and spine", [2]int{2, 4}, [2]int{1, 1}, 1 * mB, true, ""},
}

// Of all examinations, and of those made at any hour.
var (
	examsByDay   = weigh(len(exams), func(i int) float64 { return exams[i].weight })
	examsByNight = weigh(len(exams), func(i int) float64 {
		if exams[i].office {
			return 0
		}
		return exams[i].weight
	})
)

// ages are those of whom an examination is made of, where they matter.
var ages = map[string][2]int{
	"US Obstetric growth": {15, 48}, "US Pelvis transvaginal": {18, 90}, "US Infant hips": {0, 0},
	"MG Breast screening": {47, 73}, "MG Mammogram Both": {30, 100}, "MRI Prostate multiparametric": {40, 90},
	"CT Coronary angiogram": {25, 100}, "Coronary angiogram": {25, 100}, "DEXA Hip and spine": {40, 100}, "CT Colonography": {30, 100},
}

// chooseExam draws an examination that the hour and the patient allow.
func chooseExam(d *draw, office bool, sex string, age int) *exam {
	from := examsByNight
	if office {
		from = examsByDay
	}
	for {
		e := &exams[from.choose(d)]
		if e.sex != "" && (sex == "F" || sex == "M") && e.sex != sex {
			continue
		}
		if a, ok := ages[e.text]; ok && (age < a[0] || age > a[1]) {
			continue
		}
		return e
	}
}
