package index

// costs are the bounds of what a query costs, and the rates by which one way is weighed against another. Tests lower them.
type costs struct {
	rounds []int // of counting: how many rows are looked at in each way before the next is

	fewRows       int // so many studies are read without looking for something better
	rowsPerPerson int // walking so many rows costs as much as looking up one person's studies beside others'
	rowsPerNamed  int // and if they all bear one name
	trial         int // rows walked before persons of whom there are many are collected
	common        int // persons collected when nothing is narrow
	commonRows    int // rows that are looked at for them

	candidates int // places of persons' studies that are collected
	examined   int // studies read
	asked      int // persons read
	walked     int // rows walked
	counted    int // rows held by a count of rows
}

var queryCosts = costs{
	rounds: []int{128, 2048, 16384}, fewRows: 64, rowsPerPerson: 24, rowsPerNamed: 8, trial: 1 << 17, common: 1 << 17, commonRows: 1 << 20,
	candidates: maxCandidates, examined: MaxExamined, asked: maxAsked, walked: maxWalked, counted: maxCounted,
}
